import threading
import time

import pytest
import torch

from stable_longform.models.acceleration.workers import ordered_map


@pytest.fixture
def six_threads():
    torch.set_num_threads(6)
    yield
    assert torch.get_num_threads() == 6
    torch.set_num_threads(1)


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_order_shares_and_modes(six_threads, num_workers):
    def job(number):
        time.sleep(0.01 if number == 0 else 0)
        is_inference = torch.is_inference_mode_enabled()
        return number, torch.get_num_threads(), torch.is_grad_enabled(), is_inference, threading.current_thread()

    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            numbers, shares, grad, inference, threads = zip(*ordered_map(job, range(9), num_workers), strict=True)
        assert numbers == tuple(range(9))
        assert set(shares) == {6 // num_workers}
        assert not any(grad) and set(inference) == {mode is torch.inference_mode}
        assert (threading.main_thread() in threads) == (num_workers == 1)


def test_what_is_not_read_is_not_computed_far_ahead(six_threads):
    started = []
    results = ordered_map(started.append, range(100), 2)
    next(results)
    results.close()
    assert len(started) <= 3 + 1
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [6]


def test_errors_arrive(six_threads):
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda number: 1 / number, [1, 0, 1], 2))
