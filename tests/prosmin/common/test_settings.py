import pytest

from prosmin.common.errors import ConfigError
from prosmin.common.settings import Refused, ascending, one_of


def test_a_value_that_is_none_of_the_options_is_refused_with_the_nearest():
    one_of("rule", "crps", ("crps", "log"))
    with pytest.raises(
        ConfigError,
        match=r"^rule is 'cprs'; it must be one of crps, log \(did you mean 'crps'\?\)$",
    ):
        one_of("rule", "cprs", ("crps", "log"))


def test_ends_that_are_not_in_order_are_refused():
    ascending("scale", (0.4, 0.4))
    for ends, strictly in (((1.0, 0.4), False), ((0.4, 0.4), True)):
        with pytest.raises(ConfigError, match=r"^scale is .*; it must be \[low, high\] with low <"):
            ascending("scale", ends, strictly)


def test_a_refusal_is_one_of_the_user_and_one_of_a_validator():
    assert issubclass(Refused, ConfigError) and issubclass(Refused, ValueError)
