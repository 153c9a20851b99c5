"""What the tests of the console share: the service in a process of its own, and a real Chromium that looks at it.

Import it by name (``tests`` is on pytest's path): ``from browsers import Browser, open_browser, serving``.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common import ElementClickInterceptedException, StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from needs import needed_program
from tenants import HANG_SECONDS, python, read_json

TABS_MAX = 80

# For people the console looks every two seconds, and nothing that a test waits for needs to be looked for less often.
_HASTE = """
const wait = setTimeout;
window.setTimeout = (work, ms = 0, ...given) => wait(work, ms <= 2000 ? ms / 10 : ms, ...given);
"""

# Serves until its standard input ends. All the while, each active tenant's messages are written and read, so that there
# are numbers that move; `busy` says how many calls at once, where it is not 4. Fleet jobs of the kind `hold` work on a tenant
# until a file is there, and fail for those that their arguments name.
_SERVICE = """
import asyncio, json, pathlib, socket, sys

import uvicorn
from prometheus_client import CollectorRegistry

from tenantry import RegistryConfig, TenantRegistry, TenantState
from tenantry.admin import create_admin_app
from tenantry.errors import TenantryError
from tenantry import Scope
from tenants import make_message

data_dir, busy = sys.argv[1], json.loads(sys.argv[2])

async def call(registry, tenant_id):
    messages = registry.tenant(tenant_id).messages
    try:
        await messages.save(make_message())
        await messages.get_history("general", limit=5)
    except TenantryError:
        pass  # it was led elsewhere in its life

async def work(registry):
    while True:
        active = await registry.list(state=TenantState.ACTIVE)
        names = [tenant.id for tenant in active for _ in range(busy.get(tenant.id, 4))]
        await asyncio.gather(*(call(registry, name) for name in names))
        await asyncio.sleep(0.1)

async def hold(tenant, arguments):
    while not pathlib.Path(arguments["until"]).exists():
        await asyncio.sleep(0.02)
    if tenant.id in arguments.get("failing", ()):
        raise ValueError(arguments["says"])

async def main():
    collectors = CollectorRegistry()
    registry = TenantRegistry(RegistryConfig(data_dir=data_dir, open_tenants_max=32))
    registry.fleet.register("hold", hold)
    async with registry:
        keys = {}
        for scope in Scope:
            _, keys[scope] = await registry.keys.create(name="on call", scopes=(scope,))
        _, keys["acme"] = await registry.keys.create(name="for acme", scopes=(Scope.ADMIN,), tenants=["acme"])
        app = create_admin_app(registry, collectors=collectors)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        listening = socket.create_server(("127.0.0.1", 0))
        print(json.dumps({"port": listening.getsockname()[1], "keys": keys}), flush=True)
        working = asyncio.create_task(work(registry))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        await asyncio.to_thread(sys.stdin.read)
        working.cancel()
        server.should_exit = True
        await serving

asyncio.run(main())
"""


@dataclass(frozen=True)
class RunningService:
    """A service that runs.

    Attributes:
        url: Of its root.
        keys: A key for each scope, and one that is for the tenant ``acme`` only.
        stop: Ends it.
    """

    url: str
    keys: dict[str, str]
    stop: Callable[[], None]


@contextmanager
def serving(data_dir: Path, busy: dict[str, int] | None = None) -> Iterator[RunningService]:
    """Serve a data directory in a process of its own, with load on every active tenant."""
    with python(_SERVICE, data_dir, json.dumps(busy or {})) as process:
        told = read_json(process)

        def stop() -> None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(HANG_SECONDS)

        yield RunningService(f"http://127.0.0.1:{told['port']}", told["keys"], stop)


class Browser:
    """A window of Chromium, as its user knows it: by what is read on it.

    Args:
        driver: Selenium's.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        passing = [StaleElementReferenceException, ElementClickInterceptedException]
        self._waiting = WebDriverWait(driver, HANG_SECONDS, poll_frequency=0.05, ignored_exceptions=passing)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return what the condition gives, as soon as that is true."""
        try:
            return self._waiting.until(lambda _: condition())
        except TimeoutException:
            pytest.fail(f"waited in vain for {what}; the page says:\n{self.text()}")

    def begin_anew(self) -> None:
        """Leave the page, and forget what was told of it; the window is as a desk has it."""
        self.driver.get("about:blank")
        self.show(1280, 900)
        self.complaints()
        self.requests()

    def show(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Make the window so large inside, in pixels, for somebody who likes it light or dark."""
        # By its own size a window can be no narrower than 500 pixels.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    @contextmanager
    def cut_off(self, *urls: str) -> Iterator[None]:
        """Have the page reach none of these URLs meanwhile; ``*`` stands for anything."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": list(urls)})
        yield
        self.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})

    def text(self, css: str = "body") -> str:
        """Return what is read in the first such element."""
        return self.driver.find_element(By.CSS_SELECTOR, css).text

    def find(self, css: str) -> WebElement:
        """Return an element as soon as it is seen."""
        return self._seen(By.CSS_SELECTOR, css)

    def click(self, label: str, within: str = "") -> None:
        """Click a button as soon as that is possible; the first, where there are several."""
        self._click(By.XPATH, f"{within}//button[normalize-space()={label!r}]")

    def click_on(self, css: str) -> None:
        """Click an element as soon as that is possible."""
        self._click(By.CSS_SELECTOR, css)

    def field(self, label: str) -> WebElement:
        """Return the input with this label as soon as it is seen."""
        return self._seen(By.XPATH, f"//*[@id=//label[starts-with(normalize-space(), {label!r})]/@for]")

    def see(self, text: str, css: str = "body") -> None:
        """Wait until a text is read."""
        self.wait(lambda: text in self.text(css), f"{text!r} in {css}")

    def gone(self, css: str) -> None:
        """Wait until no such element is there."""
        self.wait(lambda: not self.driver.find_elements(By.CSS_SELECTOR, css), f"{css} to go")

    def sign_in(self, url: str, key: str) -> None:
        """Open the console and sign in."""
        self.driver.get(f"{url}/console")
        self.find("#key").send_keys(key)
        self.click("Sign in")
        self.see("Overview", "#view h1")

    def open(self, page: str, text: str) -> None:
        """Open one of the console's pages, such as ``#/tenants``, and wait until it says something."""
        self.script("location.hash = arguments[0]", page)
        self.see(text, "#view")

    def confirm(self, action: str, answer: str = "", **fields: str) -> None:
        """Press an action's button, fill in what its dialog asks, and confirm with the button that says `answer`."""
        self.click(action)
        for name, value in fields.items():
            self.find(f"dialog [name={name}]").send_keys(value)
        self.click(answer or action, "//dialog")

    def learn(self, result: str) -> None:
        """Wait until the console tells of a result, and put that away: it lies above the page."""
        self.see(result, "#activity")
        self.click("Dismiss")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, text: str) -> None:
        """Go on with the Tab key until the focus is on something that says so."""
        for _ in range(TABS_MAX):
            if self.focused() == text:
                return
            self.press(Keys.TAB)
        pytest.fail(f"Tab never comes to {text!r}")

    def focused(self) -> str:
        """Return what is read on the element that has the focus, or its name."""
        active = self.driver.switch_to.active_element
        return active.text or active.accessible_name

    def script(self, script: str, *args: Any) -> Any:
        """Return what a script returns; it may await."""
        return self.driver.execute_async_script(
            f"""const done = arguments[arguments.length - 1];
            (async function () {{{script}}}).apply(null, arguments).then(done, (error) => done(String(error)))""",
            *args,
        )

    def complaints(self) -> list[str]:
        """Return what the console of the browser complained of since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """Return the URLs that were asked for since the last call."""
        log = self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        messages = [json.loads(entry["message"])["message"] for entry in log]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def _click(self, by: str, what: str) -> None:
        def click() -> bool:
            element = self._seen(by, what)
            # In the middle: what lies above the page is at its edges.
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
            element.click()
            return True

        self.wait(click, f"a click on {what}")

    def _seen(self, by: str, what: str) -> WebElement:
        def look() -> WebElement | None:
            found = self.driver.find_elements(by, what)
            return next((one for one in found if one.is_displayed()), None)

        element: WebElement = self.wait(look, what)
        return element


@contextmanager
def open_browser(profile: Path, *, is_hasty: bool = False) -> Iterator[Browser]:
    """Open a Chromium that knows nothing yet.

    Args:
        profile: A directory for what it keeps.
        is_hasty: Whether a page's timers of up to two seconds take a tenth of that.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = needed_program("chromium", package="chromium")
    driver_path = needed_program("chromedriver", package="chromium-driver")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in (
        *(
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--no-proxy-server",
        ),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-dev-shm-usage", "--disable-lcd-text", f"--user-data-dir={profile}"),
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver_path))
    try:
        driver.set_script_timeout(HANG_SECONDS)
        if is_hasty:
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _HASTE})
        yield Browser(driver)
    finally:
        driver.quit()
