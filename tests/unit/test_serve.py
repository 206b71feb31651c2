"""Where `make serve` leaves what the guides begin with."""

from __future__ import annotations

from pathlib import Path

from keyferry_cli.local.serve import reached_by


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_link_is_there_and_gone_again(tmp_path: Path) -> None:
    link, mine = tmp_path / "cache" / "serve", folder(tmp_path / "mine")
    with reached_by(link, mine):
        assert link.readlink() == mine
    assert not link.is_symlink()


def test_a_link_that_leads_nowhere_is_replaced(tmp_path: Path) -> None:
    link, mine = tmp_path / "serve", folder(tmp_path / "mine")
    link.symlink_to(tmp_path / "of-a-stack-that-was-killed")
    with reached_by(link, mine):
        assert link.readlink() == mine
    assert not link.is_symlink()


def test_the_last_of_several_has_it_and_gives_it_back(tmp_path: Path) -> None:
    link = tmp_path / "serve"
    first, second = folder(tmp_path / "first"), folder(tmp_path / "second")
    with reached_by(link, first):
        with reached_by(link, second):
            assert link.readlink() == second
        assert link.readlink() == first
    assert not link.is_symlink()


def test_the_first_does_not_take_the_link_of_the_second_away(tmp_path: Path) -> None:
    link = tmp_path / "serve"
    first, second = folder(tmp_path / "first"), folder(tmp_path / "second")
    with reached_by(link, first):
        link.unlink()
        link.symlink_to(second)
    assert link.readlink() == second
