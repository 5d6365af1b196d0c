"""What every store promises, and what an object store does when its service does not answer."""

import sys
import threading
import uuid

import pytest
from object_store_server import BUCKET, ObjectServer, object_server

from mdjax import patience
from mdjax.addresses import Address
from mdjax.errors import InputError
from mdjax.files import writing
from mdjax.object_stores import ObjectStore
from mdjax.stores import LocalStore, Store, store_of


@pytest.fixture(scope="module")
def server():
    with object_server() as started:
        yield started


@pytest.fixture(autouse=True)
def sound(server: ObjectServer):
    server.reset()
    yield
    server.reset()


@pytest.fixture
def address(server):
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/table"


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request, tmp_path, address) -> Store:
    places = {"folder": tmp_path / "table", "memory": address.replace("s3://", "memory://"), "s3": address}
    return store_of(places[request.param])


def test_contract(store):
    assert store.read("units/a") is None
    assert store.names("units") == []
    store.prepare()
    store.prepare()
    assert store.names("units") == []
    assert store.create("units/a", b"first")
    assert not store.create("units/a", b"second")
    assert not store.create("units/a", b"first")
    assert store.read("units/a") == b"first"
    store.write("units/a", b"third")
    assert store.read("units/a") == b"third"
    store.write("units/empty", b"")
    assert store.read("units/empty") == b""
    store.create("units/.hidden", b"")
    store.create("units/deeper/b", b"b")
    store.create("units2/c", b"c")
    assert sorted(store.names("units")) == ["a", "deeper", "empty"]
    assert sorted(store.names("")) == ["units", "units2"]
    assert store.names("units/a") == []
    store.delete("units/a")
    store.delete("units/a")
    assert store.read("units/a") is None
    assert sorted(store.names("units")) == ["deeper", "empty"]
    assert store.create("units/a", b"again")
    assert str(store.address).endswith("table")


def test_another_writer_is_seen(store):
    other = LocalStore(store.folder) if isinstance(store, LocalStore) else ObjectStore(Address(store.address))
    assert store.names("units") == []
    assert other.create("units/a", b"1")
    assert store.names("units") == ["a"]
    assert not store.create("units/a", b"2")
    other.delete("units/a")
    assert store.names("units") == []


def test_another_client_is_seen(server, address):
    """One that shares nothing with this process's own, as on another machine: s3fs by itself keeps what it listed."""
    import s3fs

    store, other = store_of(address), s3fs.S3FileSystem(skip_instance_cache=True)
    store.write("units/a", b"1")
    assert store.names("units") == ["a"]
    other.pipe_file(f"{address}/units/b", b"2")
    assert store.names("units") == ["a", "b"]
    assert store.sizes("units") == {"a": 1, "b": 1}  # pyright: ignore[reportAttributeAccessIssue]
    other.rm_file(f"{address}/units/a")
    assert store.names("units") == ["b"]
    assert store.read("units/a") is None
    assert store.create("units/a", b"3")


def test_the_first_of_many_wins(store):
    store.prepare()
    won, start = [], threading.Barrier(8)

    def create(number: int) -> None:
        start.wait()
        for unit in range(3):
            if store.create(f"units/{unit}", b"%d" % number):
                won.append((unit, number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(unit for unit, _ in won) == [0, 1, 2]
    assert all(store.read(f"units/{unit}") == b"%d" % number for unit, number in won)


def test_more_names_than_a_page(server, address):
    from moto.s3.models import s3_backends

    store = store_of(address)
    prefix = address.removeprefix(f"s3://{BUCKET}/")
    for number in range(1001):
        s3_backends["123456789012"]["aws"].put_object(BUCKET, f"{prefix}/units/{number}", b"")
    assert sorted(map(int, store.names("units"))) == list(range(1001))
    assert sum("list-type=2" in path for _, path in server.requests) == 2


def test_one_put_whatever_the_size(address, monkeypatch):
    import s3fs

    asked = []

    async def call(files, method, *args, **kwargs):
        asked.append((method, kwargs.get("IfNoneMatch")))

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    content = bytes(101 * 2**20)  # s3fs by itself would upload it in three parts
    assert store_of(address).create("large", content)
    store_of(address).write("large", content)
    assert asked == [("put_object", "*"), ("put_object", None)]


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE", 0.02)


def _refusing(times: int, *refusal: str):
    left = [times]

    def refuses(method: str, path: str):
        left[0] -= 1
        return refusal if left[0] >= 0 else None

    return refuses


BUSY = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")


@pytest.mark.parametrize("call", ["prepare", "read", "create", "write", "delete", "names"])
def test_a_busy_service_is_asked_again(call, server, address, short_pauses, capsys):
    store = ObjectStore(Address(address))
    arguments = {"prepare": (), "create": ("a", b"1"), "write": ("a", b"1"), "names": ("",)}.get(call, ("a",))
    server.refuses = _refusing(3, *BUSY)
    getattr(store, call)(*arguments)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"warning: {address} does not answer as it should: Please reduce your request rate. It is asked again for 300 "
        "seconds at most.",
        f"warning: {address} answers again: the work goes on.",
    ]


def test_one_refusal_is_nothing_to_tell(server, address, short_pauses, capsys):
    store = ObjectStore(Address(address))
    for refusal in (BUSY, ("409 Conflict", "ConditionalRequestConflict", "A conflicting operation is under way.")):
        server.refuses = _refusing(1, *refusal)
        assert store.create(refusal[1], b"1")
    assert capsys.readouterr().err == ""


def test_patience_ends(server, address, short_pauses, capsys):
    store = ObjectStore(Address(address), patience=0.6)
    server.refuses = _refusing(10**6, *BUSY)
    expected = pytest.raises(InputError, match="^Cannot write the table: Please reduce your request rate")
    with expected as refused, writing("the table", "Try later."):
        store.create("a", b"1")
    assert str(refused.value).endswith("(tried again for 0.6 seconds). Try later.")
    assert capsys.readouterr().err.count("warning") == 1


def test_nobody_listens(server, address, short_pauses, monkeypatch, capsys):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(OSError, match="Could not connect to the endpoint URL"):
            ObjectStore(Address(address), patience=0.6).read("a")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert "does not answer as it should: Could not connect" in capsys.readouterr().err


def test_a_lost_answer_does_not_lose_the_first(server, address, short_pauses):
    """The put is done, but the answer says an error: the second try finds the writer's own object."""
    store = ObjectStore(Address(address))
    lost = [True]
    server.loses = lambda method, path: method == "PUT" and lost and lost.pop()
    assert store.create("a", b"mine")
    lost[:] = [True]
    server.refuses = _refusing(1, *BUSY)
    assert not store.create("a", b"other")
    assert store.read("a") == b"mine"


FINAL = {
    "AccessDenied": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "InvalidAccessKeyId": (
        "403 Forbidden",
        "InvalidAccessKeyId",
        "The key you provided does not exist in our records.",
    ),
    "ExpiredToken": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
}


@pytest.mark.parametrize("code", FINAL)
def test_wrong_credentials_are_told_at_once(code, server, address):
    server.refuses = _refusing(10**6, *FINAL[code])
    store = ObjectStore(Address(address))
    for call in (store.prepare, lambda: store.read("a"), lambda: store.create("a", b""), lambda: store.names("")):
        server.requests.clear()
        with pytest.raises(OSError) as refused:
            call()
        assert len(server.requests) == 1
        assert refused.value.strerror == FINAL[code][2].rstrip(".")


def test_no_credentials(server, address, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(OSError, match="Unable to locate credentials"):
            ObjectStore(Address(address)).prepare()
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_missing_bucket_is_told_at_once(server):
    store = store_of("s3://nobody/table")
    for call in (store.prepare, lambda: store.read("a"), lambda: store.create("a", b""), lambda: store.names("")):
        server.requests.clear()
        with pytest.raises(OSError, match="bucket does not exist") as refused:
            call()
        assert not isinstance(refused.value, FileNotFoundError)
        assert len(server.requests) <= 2


def test_a_service_that_ignores_the_condition_is_refused(server, address, monkeypatch):
    from moto.s3.responses import S3Response

    put = S3Response.put_object

    def careless(self):
        self.headers = {name: value for name, value in self.headers.items() if name.lower() != "if-none-match"}
        return put(self)

    monkeypatch.setattr(S3Response, "put_object", careless)
    with pytest.raises(OSError, match="it replaces objects that it is told to leave"):
        store_of(address).prepare()


def test_an_object_beyond_the_limit_is_not_read(server, address, monkeypatch):
    store = store_of(address)
    store.write("large", bytes(2**20 + 1))
    monkeypatch.setenv("MDJAX_MEMORY", "1MiB")
    with pytest.raises(OSError, match="it has more than the 1 MiB that are read, unless MDJAX_MEMORY is more"):
        store.read("large")


@pytest.mark.parametrize(
    ("address", "module", "remedy"),
    [("s3://b/t", "fsspec", r"pip install 'mdjax\[stores\]'\.$"), ("gs://b/t", "gcsfs", r"pip install gcsfs\.$")],
)
def test_a_missing_package_is_named(address, module, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"^Cannot open {address}: a package for .* is missing. Install it: {remedy}"):
        store_of(address)


def test_other_services():
    with pytest.raises(InputError, match="nothing is known of ftq://"):
        store_of("ftq://host/table")
    with pytest.raises(OSError, match="http:// has no put that leaves an object alone"):
        store_of("http://127.0.0.1/table").prepare()
