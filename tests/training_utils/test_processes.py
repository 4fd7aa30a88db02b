"""Work that processes share out."""

import in_processes
from launch import call_in_processes


def test_calls_are_shared_out_and_their_results_are_everywhere():
    call_in_processes(2, in_processes.share_out_calls)


def test_a_validation_that_is_shared_out_is_the_whole_one(tmp_path):
    call_in_processes(2, in_processes.share_reconstructions, tmp_path)
