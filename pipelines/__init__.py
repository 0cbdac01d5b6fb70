"""What starts the stages: the environment they run in and the command behind ``make repro``."""
