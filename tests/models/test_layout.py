import pytest
import torch

from danqing.models.layout import Layout, Segment, centred_grid, spread


def test_positions_are_centred() -> None:
    """5 rows lie at -3..1, 4 columns at -2..1; columns run fastest."""
    grid = centred_grid(5, 4)
    assert grid.shape == (20, 2)
    assert grid[::4, 0].tolist() == [-3, -2, -1, 0, 1]
    assert grid[:4, 1].tolist() == [-2, -1, 0, 1]
    assert grid[:4, 0].tolist() == [-3] * 4


def test_a_single_patch_lies_at_minus_one() -> None:
    assert centred_grid(1, 1).tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    ("rows", "columns", "start"), [(5, 4, 2), (4, 9, 4), (1, 1, 0), (83, 83, 41), (2, 2, 1)]
)
def test_text_starts_beyond_the_half_extent(rows: int, columns: int, start: int) -> None:
    assert Segment(rows, columns, 3).text_start == start


def test_each_segment_has_positions_of_its_own() -> None:
    layout = Layout((Segment(2, 2, 3), Segment(5, 4, 2)))
    assert layout.text_positions.tolist() == [1, 2, 3, 2, 3]
    assert torch.equal(layout.image_positions[4:], centred_grid(5, 4))


def test_lengths() -> None:
    layout = Layout((Segment(2, 3, 7), Segment(5, 4, 2)))
    assert (layout.patch_lengths, layout.text_lengths) == ([6, 20], [7, 2])


def test_runs_join_neighbours_of_equal_shape_only() -> None:
    shapes = [(2, 3, 7), (3, 2, 7), (2, 3, 8), (2, 3, 7), (2, 3, 7)]
    layout = Layout(tuple(Segment(*shape) for shape in shapes))
    assert layout.runs == [(2, 6, 7), (1, 6, 8), (2, 6, 7)]


def test_spread_repeats_rows_by_the_lengths() -> None:
    assert spread(torch.tensor([4, 2, 4]), [1, 3, 2]).tolist() == [4, 2, 2, 2, 4, 4]


def test_spread_keeps_one_entry_where_all_are_equal() -> None:
    assert spread(torch.tensor([3, 3, 3]), [1, 3, 2]).tolist() == [3]
