from tests.cluster.pauses import longest_pause_ms


def test_the_longest_gap_between_two_moments_counts() -> None:
    assert longest_pause_ms([10, 20, 60, 70], 0, 80) == 40


def test_moments_outside_the_window_do_not_break_a_pause() -> None:
    assert longest_pause_ms([5, 95], 10, 90) == 80


def test_silence_at_either_edge_counts() -> None:
    assert longest_pause_ms([40], 0, 50) == 40
    assert longest_pause_ms([10], 0, 50) == 40


def test_the_order_of_the_moments_does_not_matter() -> None:
    assert longest_pause_ms([70, 10, 60, 20], 0, 80) == 40
