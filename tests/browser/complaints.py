"""What a browser has to complain of: errors on its console, in scripts, of its policy, and requests that failed."""

from dataclasses import dataclass, field

from playwright.async_api import ConsoleMessage, Page, Request, Response

ROOT = "/console"
# Each event, as some reports reach no console.
REPORTS = """document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} refuses ${event.blockedURI || event.sample}`));"""


@dataclass
class Complaints:
    """`expected`: statuses of answers that the test provokes, which the browser reports as errors too."""

    all: list[str] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)

    async def watch(self, page: Page) -> None:
        await page.add_init_script(REPORTS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.all.append(f"{page.url}: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def _said(self, message: ConsoleMessage) -> None:
        is_answer = message.text.startswith("Failed to load resource: the server responded with")
        if message.type in ("error", "warning") and not is_answer:  # answers are looked at themselves
            self.all.append(f"{message.page.url if message.page else ''}: {message.text}")

    def _failed(self, request: Request) -> None:
        # A page that is left ends its requests, and the stream with them.
        if request.failure != "net::ERR_ABORTED":
            self.all.append(f"{request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.all.append(f"{response.request.method} {response.url}: {response.status}")
