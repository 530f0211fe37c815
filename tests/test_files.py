import os
import stat

import pytest

from interactgraph import InteractGraphError
from interactgraph.files import replacing


def test_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new/folder/a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # a move within a folder is atomic
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_replaces_an_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_error(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        write_half()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_full_disk_is_a_clear_error(tmp_path):
    def write():
        with replacing(tmp_path / "a.txt"):
            raise OSError(28, "No space left on device")

    with pytest.raises(InteractGraphError, match=r"cannot write .*a\.txt: No space left"):
        write()
    assert not any(tmp_path.iterdir())


def enter(path):
    with replacing(path):
        pytest.fail("writing must not start")


def test_parent_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InteractGraphError, match=r"cannot write .*choose another output path"):
        enter(tmp_path / "file/a.txt")


def test_path_is_a_folder(tmp_path):
    with pytest.raises(InteractGraphError, match="is a folder"):
        enter(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InteractGraphError, match="cannot write"):
            enter(tmp_path / "a.txt")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a")}
    assert len(modes) == 1


def test_name_that_no_file_can_have():
    with pytest.raises(InteractGraphError, match="choose another output path"), replacing("a\0b"):
        pass
