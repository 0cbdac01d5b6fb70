"""``python -m prosmin``: the program ``prosmin``, where the package is not installed."""

from prosmin.predicting.command import main

if __name__ == "__main__":
    main()
