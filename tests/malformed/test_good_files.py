"""The files that the cases break read well: what a case shows is the one fault that it makes."""

import pytest
from good_files import GOOD
from malformed_case import landcal


@pytest.mark.parametrize("name", GOOD)
def test_a_right_file_reads(name):
    GOOD[name]()
    status, said, complained = landcal(f"inspect {name}")
    assert (status, complained) == (0, ""), complained
    assert said.startswith(f"{name}: ")
