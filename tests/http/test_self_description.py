"""The index, the document and the page about the port itself."""

import base64
import hashlib
import html
import re

import pytest
from aiohttp import hdrs

from services.ingest.docs_page import docs_page
from tests.http.conftest import Client


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/docs"])
async def test_it_needs_no_key(anonymous: Client, path: str) -> None:
    assert (await anonymous.get(path)).status == 200
    assert (await anonymous.head(path)).status == 200


async def test_the_index_leads_to_the_document_and_to_the_page(anonymous: Client) -> None:
    links = (await (await anonymous.get("/")).json())["links"]
    for name, content_type in (("openapi", "application/json"), ("docs", "text/html")):
        response = await anonymous.get(links[name])
        assert (response.status, response.content_type) == (200, content_type)


async def test_the_document_has_the_version_and_every_route(anonymous: Client) -> None:
    document = await (await anonymous.get("/openapi.json")).json()
    assert document["info"]["version"] == "1.2.3"
    routes = {
        (route.method.lower(), resource.canonical)
        for resource in anonymous.app.router.resources()
        for route in resource
        if route.method not in {hdrs.METH_HEAD, hdrs.METH_ANY}
    }
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert routes - {("get", "/"), ("get", "/openapi.json"), ("get", "/docs")} == described


async def test_the_page_loads_nothing_from_anywhere(anonymous: Client) -> None:
    response = await anonymous.get("/docs")
    page = await response.text()
    assert not re.findall(r"<(?:link|img|iframe|script src)|@import|url\(", page)
    assert {part for part in re.findall(r'href="([^#"][^"]*)"', page)} == {"/openapi.json"}
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_policy_of_the_page_allows_its_own_style_and_script_only(anonymous: Client) -> None:
    response = await anonymous.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    page = await response.text()
    for tag in ("style", "script"):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.findall(r'\s(?:style|on\w+)="', page)


async def test_the_page_has_a_command_for_every_operation(anonymous: Client) -> None:
    document = await (await anonymous.get("/openapi.json")).json()
    page = await (await anonymous.get("/docs")).text()
    commands = [html.unescape(each) for each in re.findall(r'<pre class="curl">(.*?)</pre>', page, re.DOTALL)]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            begins = f'curl -X {method.upper()} "$CARILLON_URL{path.replace("{", "<").replace("}", ">")}"'
            [command] = [each for each in commands if each.split(" \\\n")[0] == begins]
            assert ("$CARILLON_API_KEY" in command) == bool(operation["security"])
            assert f'id="{operation["operationId"]}"' in page


async def test_every_link_of_the_page_leads_somewhere(anonymous: Client) -> None:
    page = await (await anonymous.get("/docs")).text()
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets
    assert targets <= set(re.findall(r'id="([^"]+)"', page))


async def test_what_the_document_says_cannot_become_markup(anonymous: Client) -> None:
    document = await (await anonymous.get("/openapi.json")).json()
    document["info"]["title"] = document["tags"][0]["description"] = "<script>alert(1)</script>"
    document["paths"]["/v1/tasks"]["post"]["summary"] = "`<img src=x>`"
    page = docs_page(document).html.decode()
    assert page.count("<script>") == 1
    assert "<img" not in page


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/v1/tasks/batch"), ("GET", "/v1/tasks/batch")])
async def test_a_word_in_place_of_an_id_is_a_resource_of_its_own(client: Client, method: str, path: str) -> None:
    response = await client.request(method, path, json={"delay": 5})
    assert (response.status, response.headers["Allow"]) == (405, "POST")
