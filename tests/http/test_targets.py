"""What ingest refuses because the URL itself says where it leads. The dispatcher's own table: test_egress.py."""

import pytest

from libs.common.egress import EgressRules
from tests.forbidden import NAMES, PORTS, PUBLIC, PUBLIC_6, hosts
from tests.http.conftest import Client, FakeBroker

NO_URL = ("[v1.x]", "[::ffff:127.1]")

URLS = [f"https://{host}/hook" for host in hosts() if host not in NO_URL]
URLS += [f"http://{host}:{port}/" for host in (PUBLIC, "hooks.example") for port in (0, *PORTS)]


@pytest.mark.parametrize("url", URLS)
async def test_a_url_that_leads_where_no_call_may_is_a_422_at_once(
    client: Client, broker: FakeBroker, url: str
) -> None:
    response = await client.post("/v1/tasks", json={"url": url})
    problem = await response.json()
    assert (response.status, broker.published) == (422, [])
    assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [("/url", "blocked_address")]
    assert problem["errors"][0]["detail"].startswith("cannot be called: ")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1\t/", "http://127.0.0.1\\@hooks.example/", "http://127.0.0.1 /", "file:///etc/passwd",
     "gopher://127.0.0.1/", "http://hooks.example@127.0.0.1/", "//127.0.0.1/", "http:127.0.0.1", "http://",
     "http://[::ffff:127.1]/"],
)  # fmt: skip
async def test_a_url_that_two_readers_could_read_differently_is_a_422_too(
    client: Client, broker: FakeBroker, url: str
) -> None:
    response = await client.post("/v1/tasks", json={"url": url})
    assert (response.status, broker.published) == (422, [])
    assert {error["pointer"] for error in (await response.json())["errors"]} == {"/url"}


@pytest.mark.parametrize(
    "url", [f"https://{PUBLIC}/", f"http://[{PUBLIC_6}]:8080/", *(f"https://{each.name}/" for each in NAMES)]
)
async def test_a_public_address_and_a_name_of_which_nothing_is_known_are_taken(client: Client, url: str) -> None:
    assert (await client.post("/v1/tasks", json={"url": url})).status == 201


async def test_the_form_of_the_ancestor_refuses_it_too(client: Client, broker: FakeBroker) -> None:
    response = await client.post("/api/task/save", data={"notify_url": "http://169.254.169.254/latest"})
    answer = await response.json()
    assert (answer["code"], broker.published) == ("no", [])
    assert answer["data"].startswith("url cannot be called: 169.254.169.254 is link-local")


class TestWithANetworkOpened:
    @pytest.fixture
    def egress(self) -> EgressRules:
        return EgressRules(["10.0.0.0/8", "127.0.0.0/8"], ["10.5.0.0/16"], own_ports=[7001])

    @pytest.mark.parametrize("host", ["10.1.1.1", "127.0.0.1:8000", "localhost:8000", "LOCALHOST.:8000"])
    async def test_its_addresses_are_taken(self, client: Client, host: str) -> None:
        assert (await client.post("/v1/tasks", json={"url": f"http://{host}/"})).status == 201

    @pytest.mark.parametrize(
        ("host", "says"),
        [
            ("192.168.1.1", "CARILLON_ALLOW_NETWORKS can open it"),
            ("[::1]", "CARILLON_ALLOW_NETWORKS can open it"),
            ("10.5.0.1", "CARILLON_DENY_NETWORKS closes"),
            ("10.1.1.1:7001", "Carillon's own servers"),
            ("localhost:9103", "Carillon's own servers"),
            ("10.1.1.1:6379", "another protocol"),
            ("169.254.169.254", "no setting opens it"),
            ("127.1", "write it like"),
        ],
    )
    async def test_what_stays_closed_says_what_to_do(self, client: Client, host: str, says: str) -> None:
        response = await client.post("/v1/tasks", json={"url": f"http://{host}/"})
        assert response.status == 422
        assert says in (await response.json())["errors"][0]["detail"]
