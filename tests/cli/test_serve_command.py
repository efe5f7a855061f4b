"""``coterie serve``: what it takes, and what it refuses before it listens."""

import builtins
import re
import socket
from types import SimpleNamespace

import pytest
import torch

from coterie.cli.serve import limit_pytorch
from coterie.data.interactions import Interactions
from coterie.data.parts import Split
from coterie.errors import StorageError
from coterie.serving import process
from coterie.serving.keys import Keys
from coterie.serving.settings import ServeConfig
from coterie.serving.store import Store, StoreUnavailable

EXPERIMENT = """
name = "pia"
start = 2026-03-01T00:00:00Z
end = 2026-03-29T00:00:00Z
[arms]
control = 0.5
treated = 0.5
"""


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What would be served; nothing listens."""
    calls = []

    def run(config, fleet, store, keys, listening):
        calls.append((config, fleet, store, keys))
        store.close()

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "bind", lambda config: socket.socket())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTERIE_API_KEYS", raising=False)
    return calls


def test_defaults(coterie, workspace, started, tmp_path):
    ended = coterie("serve", workspace.run)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    ((config, fleet, _, keys),) = started
    assert config == ServeConfig()
    assert (tmp_path / "coterie.db").is_file()
    assert list(fleet.models) == ["default"]
    assert fleet["default"].titles[0].startswith("Title ")
    assert fleet["default"].community is None
    assert not keys


def test_file_flags_filters_arms_and_keys(coterie, workspace, started, tmp_path, monkeypatch):
    monkeypatch.setenv("COTERIE_API_KEYS", "a-key-that-is-long-enough")
    (tmp_path / "stock.txt").write_text("1003\n1004\n")
    (tmp_path / "pia.toml").write_text(EXPERIMENT)
    (tmp_path / "serve.toml").write_text(
        '[serve]\nport = 1234\nbatch_size = 7\n[filters.stock]\nallow = ["@stock.txt", 1005]\n'
        '[filters.mild]\ndeny = ["1006"]\n'
    )
    ended = coterie(
        "serve", workspace.run, "--arm", f"treated={workspace.run}", "--experiment", "pia.toml",
        "--config", "serve.toml", "--port", 99, "--database", f"sqlite:///{tmp_path}/mine.db",
        "--no-access-log", "--community", workspace.split,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ((config, fleet, store, keys),) = started
    assert (config.port, config.batch_size, config.access_log) == (99, 7, False)
    assert str(store) == f"sqlite:///{tmp_path}/mine.db"
    assert fleet.model_of("pia", "treated") == "treated"
    model = fleet["treated"]
    allowed = {model.ids[place] for place in (~model.barred["stock"]).nonzero()[0]}
    assert allowed == {1003, 1004, 1005}
    assert [model.ids[place] for place in model.barred["mild"].nonzero()[0]] == [1006]
    assert model.community.n_users == Split.open(workspace.split).train.n_users
    assert keys


@pytest.mark.parametrize("several", [True, False])
def test_arms_and_experiments_may_follow_one_flag_or_one_each(
    several, coterie, workspace, started, tmp_path
):
    """As the files of ``experiment analyze --events``."""
    names = ("one", "two")
    for name in names:
        text = EXPERIMENT.replace('"pia"', f'"{name}"').replace("treated", name)
        (tmp_path / f"{name}.toml").write_text(text)
    arms, files = [f"{name}={workspace.run}" for name in names], [f"{name}.toml" for name in names]
    flags = ["--arm", *arms, "--experiment", *files]
    if not several:
        pairs = zip(arms, files, strict=True)
        flags = [word for arm, file in pairs for word in ("--arm", arm, "--experiment", file)]
    ended = coterie("serve", workspace.run, *flags)
    assert ended.code == 0, ended.err
    ((_, fleet, _, _),) = started
    assert list(fleet.experiments) == list(names)
    assert list(fleet.models) == ["default", *names]


def test_histories_are_imported_first(coterie, workspace, started, tmp_path):
    ended = coterie("serve", workspace.run, "--import-histories", workspace.data)
    data = Interactions.open(workspace.data)
    assert ended.code == 0
    assert f"{data.nnz:,} interactions are in sqlite:///coterie.db" in ended.err
    store = Store(f"sqlite:///{tmp_path}/coterie.db")
    user, items = str(data.user_ids.ids[3]), data.item_ids.to_ids(data.row(3))
    assert sorted(store.histories([user], 99)[0]) == sorted(map(str, items))
    store.close()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--arm", "treated"], "--arm takes NAME=MODEL"),
        (["--arm", "default={run}"], "none 'default'"),
        (["--arm", "treated={run}"], "No experiment has an arm 'treated'"),
        (["--experiment", "pia.toml"], "give --arm treated=MODEL"),
        (["--experiment", "none.toml"], "none.toml cannot be read"),
        (["--database", "mysql://x"], "expected sqlite:///FILE"),
        (["--queue-size", "10"], "must be at least batch_size"),
        (["--port", "70000"], "port"),
        (["--community", "{run}"], "is not a data set"),
        (["--import-histories", "nowhere"], "does not exist"),
        (["--config", "odd.toml"], "did you mean 'queue_size'"),
        (["--config", "empty.toml"], "a filter needs allow or deny"),
        (["--config", "lost.toml"], "lost.txt cannot be read"),
        (["--config", "number.toml"], "filters.x must be a table"),
        (
            ["--config", "text.toml"],
            "filters.x.allow must be a list of ids or @FILEs, got '@a.txt'",
        ),
        (
            ["--config", "typo.toml"],
            "filters.x: ItemFilter has no setting 'alow'; did you mean 'allow'",
        ),
        (["--config", "space.toml"], "requests cannot ask for 'in stock'"),
    ],
)
def test_mistakes(flags, expected, coterie, workspace, started, tmp_path):
    (tmp_path / "pia.toml").write_text(EXPERIMENT)
    (tmp_path / "odd.toml").write_text("[serve]\nqueu_size = 3\n")
    (tmp_path / "empty.toml").write_text("[filters.x]\n")
    (tmp_path / "lost.toml").write_text('[filters.x]\nallow = ["@lost.txt"]\n')
    (tmp_path / "space.toml").write_text('[filters."in stock"]\nallow = [1003]\n')
    (tmp_path / "number.toml").write_text("[filters]\nx = 3\n")
    (tmp_path / "text.toml").write_text('[filters.x]\nallow = "@a.txt"\n')
    (tmp_path / "typo.toml").write_text("[filters.x]\nalow = [3]\n")
    ended = coterie("serve", workspace.run, *(flag.format(run=workspace.run) for flag in flags))
    assert ended.code == 2, ended.err
    assert expected in re.sub(r"\s+", " ", ended.message())
    assert started == []


def test_short_keys_and_wrong_models(coterie, workspace, started, monkeypatch):
    assert "expected a model" in coterie("serve", workspace.data).message()
    monkeypatch.setenv("COTERIE_API_KEYS", "short")
    ended = coterie("serve", workspace.run)
    assert (ended.code, "at least 16" in ended.message()) == (2, True)


def test_a_taken_port_is_told_before_anything_is_loaded(coterie, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("coterie.serving.fleet.Fleet", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = coterie("serve", workspace.run, "--port", taken.getsockname()[1])
    assert ended.code == 2
    assert "cannot be listened on" in ended.message()
    assert not list(tmp_path.iterdir())


def test_a_port_is_ours_but_refuses_until_all_is_loaded():
    with process.bind(ServeConfig(port=0)) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            closed = []
            store = SimpleNamespace(close=lambda: closed.append(True))
            with pytest.raises(StorageError, match="cannot be listened on"):
                process.run(ServeConfig(port=port), None, store, Keys(), bound)
            assert closed


def test_an_import_into_a_store_that_goes_away(coterie, workspace, started, monkeypatch):
    def away(self, data):
        raise StoreUnavailable("the server closed the connection")

    monkeypatch.setattr(Store, "import_histories", away)
    ended = coterie("serve", workspace.run, "--import-histories", workspace.data)
    assert ended.code == 2
    assert "sqlite:///coterie.db: the server closed the connection" in " ".join(
        ended.message().split()
    )
    assert started == []


def test_without_the_extra(coterie, workspace, monkeypatch):
    real = builtins.__import__

    def lacking(name, *rest):
        if name == "coterie.serving.process":
            raise ImportError("gone", name="uvicorn")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacking)
    ended = coterie("serve", workspace.run)
    assert ended.code == 2
    assert "needs uvicorn" in ended.message()
    assert "pip install 'coterie[serve]'" in ended.message()


@pytest.mark.parametrize(("lists", "expected"), [([1, 2], 1), ([1, None], 7), ([None], 7)])
def test_pytorch_has_one_thread_where_it_finds_no_lists(lists, expected):
    before = torch.get_num_threads()
    fleet = SimpleNamespace(models={at: SimpleNamespace(lists=one) for at, one in enumerate(lists)})
    try:
        torch.set_num_threads(7)
        limit_pytorch(fleet)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
