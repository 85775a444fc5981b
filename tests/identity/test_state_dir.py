import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from obt_agent.identity.credentials import Credentials
from obt_agent.identity.folder import Folder, FolderError, open_folder
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir, peek
from obt_agent.identity.uuid7 import is_uuid7
from tests.identity.machines import agent_id_at, machine


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return machine(tmp_path / "here", "11111111111111111111111111111111")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state"


def test_an_agent_keeps_its_id_and_gets_a_new_instance_with_each_process(path: Path, here: Path) -> None:
    with StateDir.open(path, root=here) as first:
        assert is_uuid7(first.agent_id)
    with StateDir.open(path, root=here) as second:
        assert second.agent_id == first.agent_id
        assert second.instance != first.instance
        assert second.moved_from is None


def test_the_folder_and_its_files_are_closed_to_others(path: Path, here: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o755)
    with StateDir.open(path, root=here):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}
    assert modes == {"identity.json": 0o600, "lock": 0o600}


def test_the_machines_id_is_kept_only_salted_and_hashed(path: Path, here: Path) -> None:
    with StateDir.open(path, root=here):
        kept = (path / "identity.json").read_text()
    assert "1111111" not in kept
    assert len(json.loads(kept)["machine"]) == 64


def test_a_folder_copied_to_another_machine_makes_a_new_agent_that_resumes_nothing(
    tmp_path: Path, path: Path, here: Path
) -> None:
    with StateDir.open(path, root=here) as original:
        Credentials(original.folder, None).store_enrolled(Secret("secret-of-the-original"))
        (path / "outbox.sqlite3").write_text("jobs of the original")
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
    there = machine(tmp_path / "there", "22222222222222222222222222222222")
    with StateDir.open(copy, root=there) as moved:
        assert moved.agent_id != original.agent_id
        assert moved.moved_from == original.agent_id
        assert Credentials(moved.folder, None).for_next_dial() is None
        aside = copy / f"copied-from-{original.agent_id}"
        assert (aside / "outbox.sqlite3").read_text() == "jobs of the original"
        assert stat.S_IMODE(aside.stat().st_mode) == 0o700
    assert agent_id_at(copy, there) == moved.agent_id
    assert agent_id_at(path, here) == original.agent_id


def test_setting_a_copy_aside_goes_on_where_it_was_killed(tmp_path: Path, path: Path, here: Path) -> None:
    old = agent_id_at(path, here)
    (path / f"copied-from-{old}").mkdir(mode=0o700)
    (path / "rest").write_text("x")
    there = machine(tmp_path / "there", "22222222222222222222222222222222")
    with StateDir.open(path, root=there) as moved:
        assert moved.moved_from == old
    assert (path / f"copied-from-{old}" / "rest").exists()


@pytest.mark.parametrize("absent", [None, "", "uninitialized"])
def test_a_machine_without_an_id_keeps_its_agent(path: Path, tmp_path: Path, absent: str | None) -> None:
    nameless = machine(tmp_path / "m", absent)
    first = agent_id_at(path, nameless)
    assert agent_id_at(path, nameless) == first
    named = machine(tmp_path / "m", "33333333333333333333333333333333")
    assert agent_id_at(path, named) == first, "an id that appears later is taken over"
    other = machine(tmp_path / "m", "44444444444444444444444444444444")
    assert agent_id_at(path, other) != first


def test_a_machine_that_lost_its_id_keeps_its_agent(path: Path, here: Path, tmp_path: Path) -> None:
    assert agent_id_at(path, here) == agent_id_at(path, machine(tmp_path / "none", None))


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"agent_id":"x","salt":"y","created_at":1}', b"\xff" * 10, b"{" * 70_000]
)
def test_a_damaged_identity_is_refused_and_left_as_it_is(path: Path, here: Path, damage: bytes) -> None:
    agent_id_at(path, here)
    (path / "identity.json").write_bytes(damage)
    with pytest.raises(FolderError, match=r"identity\.json is damaged"):
        StateDir.open(path, root=here)
    assert (path / "identity.json").read_bytes() == damage
    (path / "identity.json").unlink()
    assert is_uuid7(agent_id_at(path, here)), "a failed opening lets go of the lock"


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"name another in agent\.state_dir"):
        StateDir.open(tmp_path / "file" / "state")
    with pytest.raises(FolderError, match=r"cannot be used"):
        StateDir.open(tmp_path / "file")


def test_a_link_is_followed_only_if_root_or_this_user_made_it(tmp_path: Path, here: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    assert is_uuid7(agent_id_at(link, here))
    if os.geteuid() == 0:
        os.lchown(link, 4242, 4242)
        with pytest.raises(FolderError, match="is a link that user 4242 made"):
            StateDir.open(link, root=here)


def test_a_link_in_place_of_a_file_is_not_followed(path: Path, here: Path, tmp_path: Path) -> None:
    agent_id_at(path, here)
    shutil.move(path / "identity.json", tmp_path / "elsewhere")
    (path / "identity.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match="cannot be read: Too many levels of symbolic links"):
        StateDir.open(path, root=here)


def test_a_pipe_in_place_of_a_file_does_not_hang(path: Path, here: Path) -> None:
    agent_id_at(path, here)
    (path / "identity.json").unlink()
    os.mkfifo(path / "identity.json", 0o600)
    with pytest.raises(FolderError, match="is not a regular file"):
        StateDir.open(path, root=here)


def test_a_file_that_others_can_read_is_refused_with_the_remedy(path: Path, here: Path) -> None:
    agent_id_at(path, here)
    (path / "identity.json").chmod(0o644)
    with pytest.raises(FolderError, match=f"can be read by other users: chmod 600 {path}/identity.json"):
        StateDir.open(path, root=here)


def test_root_leaves_what_it_writes_to_the_folders_owner(path: Path, here: Path) -> None:
    path.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(path, 4242, 4243)
    owner = path.stat()
    agent_id_at(path, here)
    for file in path.iterdir():
        assert (file.stat().st_uid, file.stat().st_gid) == (owner.st_uid, owner.st_gid)


def test_a_look_makes_nothing(path: Path, here: Path) -> None:
    assert peek(path) == (None, None)
    assert not path.exists()
    with StateDir.open(path, root=here) as state:
        identity, holder = peek(path)
        assert identity is not None
        assert identity.agent_id == state.agent_id
        assert holder is not None
        assert holder.pid == os.getpid()
    assert peek(path)[1] is None


def test_closing_twice_is_harmless(path: Path, here: Path) -> None:
    state = StateDir.open(path, root=here)
    state.close()
    state.close()
    assert state.path == path


def test_a_folder_of_somebody_else_says_as_whom_to_run(
    path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id_at(path, here)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(FolderError, match=f"belongs to user {owner}. Run as that user"):
        StateDir.open(path, root=here)


def test_a_file_of_somebody_else_is_refused(path: Path, here: Path) -> None:
    agent_id_at(path, here)
    if os.geteuid() == 0:
        os.chown(path / "identity.json", 4242, -1)
    folder = open_folder(path)
    foreign = Folder(folder.path, folder.directory, (4243, 4243))
    with pytest.raises(FolderError, match=r"belongs to user \d+; move it away"):
        foreign.read("identity.json")
    folder.close()


def test_a_copy_that_cannot_be_set_aside_stays_as_it_is(path: Path, here: Path, tmp_path: Path) -> None:
    old = agent_id_at(path, here)
    (path / f"copied-from-{old}").write_text("in the way")
    there = machine(tmp_path / "there", "22222222222222222222222222222222")
    with pytest.raises(
        FolderError, match="was copied from another machine, and its files cannot be set aside"
    ):
        StateDir.open(path, root=there)
    assert agent_id_at(path, here) == old


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_before_it_counts(
    path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_rename(old: str, new: str, **where: int) -> None:
        order.append("name")
        rename(old, new, **where)

    with StateDir.open(path, root=here) as state:
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "rename", noted_rename)
        state.folder.write("credential.json", b"{}")
    assert order == ["file", "name", "folder"]
