"""Events and histories, in SQLite and in PostgreSQL."""

import random
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
import sqlalchemy as sa
from held_up import held_up
from served_models import small_community

from coterie.data.ids import IdMap
from coterie.data.interactions import Interactions
from coterie.errors import ConfigError, DataError, StorageError
from coterie.experiment.events import SCHEMA, Event, check_events, events_frame
from coterie.serving import tables
from coterie.serving.migrate import FOLDER, LOCK, NEWEST, _upgrade, migrate
from coterie.serving.store import Store, StoreUnavailable, _limits, storable

START = datetime(2026, 3, 1, tzinfo=UTC)


def event(event_id, user="ann", kind="click", item="1", minutes=0, **more):
    time = START + timedelta(minutes=minutes)
    more.setdefault("seconds", 2.5 if kind == "watch" else None)
    return Event(event_id=event_id, user=user, kind=kind, item=item, time=time, **more)


@pytest.fixture
def store(database):
    opened = Store(database)
    yield opened
    opened.close()


def test_what_is_added_is_there_when_it_is_opened_again(store, database):
    new = [
        event("a", kind="watch", surface="home"),
        event("b", user="bo ' ; DROP TABLE events; --", experiment="pia", arm="control"),
        event("c", item=None, kind="impression", minutes=1.5),
    ]
    assert store.add(new) == [True, True, True]
    store.close()
    again = Store(database)
    found = pl.concat(again.log())
    expected = events_frame(new).collect().sort("time", "event_id")
    assert found.sort("time", "event_id").equals(expected)
    assert check_events(found.lazy())["events"].item() == 3
    again.close()


def test_an_event_id_counts_once_and_the_first_one_stays(store):
    assert store.add([event("a", item="1"), event("a", item="2"), event("b", item="3")]) == [
        True,
        False,
        True,
    ]
    assert store.add([event("b", item="4"), event("c", item="5")]) == [False, True]
    log = pl.concat(store.log())
    assert dict(zip(log["event_id"], log["item"], strict=True)) == {"a": "1", "b": "3", "c": "5"}
    assert set(store.histories(["ann"], 9)[0]) == {"1", "3", "5"}, "4 was never stored"
    assert store.add([]) == []


def test_histories_hold_what_was_clicked_or_watched_the_latest_first(store):
    store.add(
        [
            event("1", item="old", minutes=1),
            event("2", item="shown", kind="impression", minutes=2),
            event("3", item="seen", kind="watch", minutes=3),
            event("4", item="again", minutes=4),
            event("5", item="old", minutes=5),
            event("6", item="again", minutes=0),
            event("7", item=None, minutes=9),
            event("8", item="other", user="bo"),
        ]
    )
    assert store.histories(["ann", "nobody", "bo", "ann"], 9) == [
        ["old", "again", "seen"],
        [],
        ["other"],
        ["old", "again", "seen"],
    ]
    assert store.histories(["ann"], 2) == [["old", "again"]]
    assert store.histories([], 2) == []


def test_the_log_by_time_in_any_zone(store):
    store.add([event(str(minute), minutes=minute) for minute in range(10)])
    elsewhere = timezone(timedelta(hours=5))
    since = (START + timedelta(minutes=3)).astimezone(elsewhere)
    until = START + timedelta(minutes=6)
    assert pl.concat(store.log(since, until))["event_id"].to_list() == ["3", "4", "5"]
    (empty,) = store.log(START + timedelta(days=1))
    assert dict(empty.schema) == SCHEMA
    assert len(empty) == 0


def test_the_log_comes_in_parts(store, monkeypatch):
    monkeypatch.setattr("coterie.serving.store.ROWS_AT_ONCE", 4)
    store.add([event(str(minute), minutes=minute) for minute in range(10)])
    parts = list(store.log())
    assert max(map(len, parts)) <= 4
    assert pl.concat(parts)["event_id"].to_list() == list(map(str, range(10)))


def test_histories_from_a_data_set_and_events_together(store, monkeypatch):
    monkeypatch.setattr("coterie.serving.store.ROWS_AT_ONCE", 100)
    data = small_community()
    for _ in range(2):
        assert store.import_histories(data) == data.nnz > 300
    for user in (0, 41, 79):
        items = data.item_ids.to_ids(data.row(user)).cast(pl.String)
        assert sorted(store.histories([str(user)], 99)[0]) == sorted(items)
    store.add([event("a", user="41", item="1059")])
    assert store.histories(["41"], 99)[0][0] == "1059", "events are later than undated items"
    with_times = Interactions(
        data.indptr, data.indices, data.user_ids, data.item_ids,
        timestamps=2_000_000_000 - data.indices.astype("int64"),
    )  # fmt: skip
    store.import_histories(with_times)
    latest = store.histories(["0"], 99)[0]
    assert latest == sorted(latest), "the lower index has the later time"


def test_writers_at_once_lose_nothing(store):
    def write(writer):
        mine = [event(f"{writer}-{at}", user=f"u{at % 7}", item=str(at % 11)) for at in range(50)]
        shared = [event(f"shared-{at}", user="ann", item=str(at)) for at in range(50)]
        return sum(store.add(mine)), sum(store.add(shared[::-1] if writer % 2 else shared))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, range(8)))
    assert [mine for mine, _ in results] == [50] * 8
    assert sum(shared for _, shared in results) == 50
    assert sum(map(len, store.log())) == 450


def test_hostile_text_is_only_text(store):
    texts = ["'; DROP TABLE events; --", '"', "\\", "%", "_", "<b>", "{0}", ":user", "é", "𝄞", "?"]
    new = [event(f"e{text}", user=text, item=text) for text in texts]
    assert all(store.add(new))
    assert store.histories(texts, 5) == [[text] for text in texts]


@pytest.mark.parametrize("field", ["event_id", "user", "item"])
@pytest.mark.parametrize("text", ["a\0b", "é" * 257, "\ud800"], ids=["nul", "long", "surrogate"])
def test_ids_that_no_database_holds_are_refused(field, text):
    facts = {**event("a").model_dump(), field: text}
    with pytest.raises(DataError, match=f"{field}: an id has at most 512 bytes"):
        storable(Event.model_construct(**facts))


def test_the_longest_ids_fit_the_keys(store):
    rng = random.Random(0)
    longest = ["".join(chr(rng.randrange(0x10000, 0x20000)) for _ in range(128)) for _ in range(3)]
    one = event(longest[0], user=longest[1], item=longest[2])
    assert store.add([storable(one)]) == [True]
    assert store.histories([longest[1]], 5) == [[longest[2]]]


def test_an_import_refuses_ids_that_cannot_be_stored(sqlite):
    store = Store(sqlite)
    data = Interactions(
        *(small_community().__dict__[name] for name in ("indptr", "indices")),
        IdMap([f"u\0{user}" for user in range(80)]),
        small_community().item_ids,
    )
    with pytest.raises(DataError, match="no NUL"):
        store.import_histories(data)
    store.close()


def test_new_tables_are_those_that_the_migrations_create(database):
    store = Store(database)
    created = described(store._writing)
    assert set(created) == {*tables.metadata.tables, "alembic_version"}
    with store._writing.begin() as connection:
        for table in created:
            connection.execute(sa.text(f"DROP TABLE {table}"))
        _upgrade(connection)
    assert described(store._writing) == created
    migrate(store._writing)
    assert store.add([event("a")]) == [True]
    store.close()


def described(engine):
    """Of each table its columns, its key and its indexes."""
    inspector = sa.inspect(engine)
    return {
        table: (
            [
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            ],
            inspector.get_pk_constraint(table)["constrained_columns"],
            inspector.get_indexes(table),
        )
        for table in inspector.get_table_names()
    }


def test_a_new_database_needs_no_alembic_nor_does_one_that_is_there(tmp_path):
    code = (
        "import sys; from coterie.serving.store import Store\n"
        f"for _ in range(2): Store('sqlite:///{tmp_path}/store.db').close()\n"
        "sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_view_in_a_tables_place_is_refused(database):
    store = Store(database)
    made = list(described(store._writing))
    with store._writing.begin() as connection:
        for table in made:
            connection.execute(sa.text(f"DROP TABLE {table}"))
        connection.execute(sa.text("CREATE VIEW events AS SELECT 1 AS one"))
    store.close()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"cannot be opened: .*already exists"):
            Store(database)


def test_tables_of_something_else_are_left_alone(database):
    store = Store(database)
    with store._writing.begin() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
    store.close()
    with pytest.raises(StorageError, match=r"cannot be opened: .*already exists"):
        Store(database)


def test_newest_is_the_head_of_the_migrations():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


def test_servers_that_start_together_migrate_once(database):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: Store(database), range(4)))
    assert stores[0].add([event("a")]) == [True]
    assert stores[3].histories(["ann"], 1) == [["1"]]
    for store in stores:
        store.close()


def test_a_database_of_a_newer_version_is_refused(database):
    store = Store(database)
    with store._writing.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(StorageError, match=r"a newer\s+coterie has migrated it"):
        Store(database)


@pytest.mark.parametrize(
    "url",
    ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nothing", "", "postgresql+asyncpg://x"],
)
def test_other_urls(url):
    with pytest.raises(ConfigError, match=r"database: .*sqlite:///"):
        Store(url)


def test_unreachable_databases_and_no_password_in_messages(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path}/no/such/folder/store.db")
    with pytest.raises(StorageError) as caught:
        Store("postgresql://ann:hunter2@127.0.0.1:1/nothing")
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    (tmp_path / "text.db").write_text("this is no database, but text " * 100)
    with pytest.raises(StorageError, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path}/text.db")


def test_sqlite_flushes_every_commit(sqlite):
    store = Store(sqlite)
    with store._writing.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


def test_a_statement_that_is_held_up_is_given_up(database):
    store = Store(database, seconds=0.2)
    with held_up(database), pytest.raises(StoreUnavailable, match=r"statement timeout|locked"):
        store.add([event("a")])
    assert store.add([event("a")]) == [True]
    store.close()


def test_a_server_waits_for_one_that_migrates_as_long_as_it_takes(postgres):
    database = postgres.database()
    with ThreadPoolExecutor(1) as pool:
        engine = Store(database)._reading
        with engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
            opening = pool.submit(Store, database, seconds=0.1)
            time.sleep(0.5)
            assert not opening.done()
        opening.result().close()
        engine.dispose()


def test_what_the_url_says_to_libpq_goes_before():
    url = sa.make_url("postgresql://x/y?tcp_user_timeout=9&options=-csearch_path%3Dshop")
    limits = _limits(url, 0.25)
    assert "tcp_user_timeout" not in limits
    assert limits["options"] == "-c statement_timeout=250 -csearch_path=shop"
    assert (limits["connect_timeout"], limits["keepalives_idle"]) == (5, 5)
    assert "options" not in _limits(sa.make_url("postgresql://x/y"), None)


def test_a_server_that_takes_no_writes_any_more_is_away_and_asked_anew(postgres):
    """As after a failover, when the pool's connections lead to what is a standby now."""
    store = Store(postgres.database())
    with store._writing.connect() as connection:
        connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        connection.commit()
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        store.add([event("a")])
    assert store.add([event("a")]) == [True]
    store.close()


def test_no_fault_of_the_store_names_a_user(database):
    store = Store(database)
    with store._writing.begin() as connection:
        connection.execute(sa.text("DROP TABLE histories"))
    user = "-".join(["secret", "user"])
    with pytest.raises((StoreUnavailable, sa.exc.ProgrammingError)) as caught:
        store.histories([user], 9)
    assert user not in "".join(traceback.format_exception(caught.value))
    store.close()


def test_a_stopped_postgresql_is_unavailable_and_its_return_is_noticed(postgres):
    store = Store(postgres.database())
    store.add([event("a")])
    postgres.stop()
    try:
        for call in (lambda: store.add([event("b")]), lambda: store.histories(["ann"], 1)):
            with pytest.raises(StoreUnavailable):
                call()
    finally:
        postgres.start()
    assert store.add([event("b", item="2"), event("a")]) == [True, False]
    assert sorted(store.histories(["ann"], 9)[0]) == ["1", "2"]
    store.close()
