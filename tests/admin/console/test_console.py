"""The console in a real browser, on a real service with load."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browsers import Browser, RunningService, serving
from fleets import make_fleet
from tenants import stored_contents

pytestmark = pytest.mark.unmeasured

HOSTILE = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 2</script>'
PAGES = ["#/overview", "#/tenants", "#/tenants/acme", "#/audit"]
WIDER = "const { scrollWidth, clientWidth } = document.documentElement; return scrollWidth - clientWidth"
# What every element's text is read against: the nearest background behind it that is not transparent.
CONTRASTS = """
const luminance = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const isClear = (color) => color === "transparent" || color.endsWith(", 0)");
const behind = (node) => {
  const color = node ? getComputedStyle(node).backgroundColor : "rgb(255, 255, 255)";
  return node && isClear(color) ? behind(node.parentElement) : color;
};
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const text = Array.from(node.childNodes).filter((one) => one.nodeType === 3).map((one) => one.data.trim()).join("");
  if (!text || !node.checkVisibility() || node.disabled) continue;
  const style = getComputedStyle(node);
  const [one, other] = [node.closest("svg") ? style.fill : style.color, behind(node)].map(luminance);
  const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (contrast < 4.5) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
}
return found;
"""


def calls(browser: Browser) -> int:
    """Return how many calls the tenant's page counts."""
    found = re.search(r"Calls since it was opened\n([\d,]+)", browser.text("#view"))
    return int(found[1].replace(",", "")) if found else 0


def answered_per_second(browser: Browser) -> float:
    """Return the throughput that the overview shows."""
    found = re.search(r"([\d,.]+)/s\s+answered", browser.text("#view"))
    return float(found[1].replace(",", "")) if found else 0.0


def see_numbers_move(browser: Browser) -> None:
    """Look at a tenant that is called, on each of the console's pages that tell of it."""
    before = browser.wait(lambda: calls(browser), "calls")
    browser.wait(lambda: calls(browser) > before, "more calls")
    browser.open("#/overview", "acme")
    browser.wait(lambda: answered_per_second(browser) > 0, "throughput")
    label = browser.find(".drawing").get_attribute("aria-label")
    assert label.startswith("Throughput, the last 1 min. answered: now ")
    browser.wait(
        lambda: "L" in browser.find(".drawing .line-0").get_attribute("d"),
        "a line in the chart of throughput",
    )
    browser.open("#/tenants", "company 1")
    browser.wait(
        lambda: re.search(r"active\n?.*\d (KiB|MiB) [\d.,]+/s", browser.text("tbody")), "size and load"
    )


def test_an_operator_leads_a_tenant_through_its_life(
    service: RunningService, browser: Browser, data_dir: Path
):
    """Sign in, create, see numbers move, suspend, resume, snapshot, restore, undo: and the data is what the page says.

    Nothing is asked of anybody but the service, the browser complains of nothing, and the key is in no address.
    """
    browser.sign_in(service.url, service.keys["admin"])
    browser.click_on("nav a[href='#/tenants']")
    browser.see("There are no tenants yet.", "#view")
    browser.confirm("Create tenant", "Create", id="acme", display_name="Acme Ltd.")
    browser.see("Acme Ltd.", "#view")
    browser.learn("Create: acme")

    see_numbers_move(browser)
    browser.open("#/tenants/acme", "Stable key")
    browser.confirm("Suspend", reason="unpaid since May")
    browser.learn("Suspend: acme")
    browser.see("suspended", ".title")
    browser.see("Reason: unpaid since May", ".notice")
    kept = len(stored_contents(data_dir, "acme"))
    browser.confirm("Snapshot")
    browser.learn("Done in ")
    browser.see("manual", "table[aria-label=Snapshots]")

    browser.confirm("Resume")
    browser.learn("Resume: acme")
    browser.see("active", ".title")
    before = browser.wait(lambda: calls(browser), "calls")
    browser.wait(lambda: calls(browser) > before, "more calls")
    browser.confirm("Suspend")
    browser.learn("Suspend: acme")
    browser.see("suspended", ".title")
    later = len(stored_contents(data_dir, "acme"))
    assert later > kept

    browser.confirm("Restore", typed="acme")
    browser.learn("Done in ")
    browser.wait(lambda: len(stored_contents(data_dir, "acme")) == kept, "the rows of the snapshot")
    browser.see("restore", "table[aria-label='Latest audit entries']")
    browser.confirm("Undo restore", "Undo the restore")
    browser.learn("Done in ")
    browser.wait(lambda: len(stored_contents(data_dir, "acme")) == later, "the rows of before")
    browser.see("undo restore", "table[aria-label='Latest audit entries']")

    browser.open("#/audit", "undo restore")
    browser.click("Verify the chain")
    browser.see("Intact: ", "#view")
    browser.click("Sign out")
    browser.see("API key")
    assert "acme" not in browser.text()
    assert browser.script("return sessionStorage.length + localStorage.length") == 0
    assert browser.complaints() == []
    asked = browser.requests()
    assert {url for url in asked if not url.startswith((f"{service.url}/", "data:"))} == set()
    assert not any("tnt_" in url for url in asked)


def test_everything_can_be_done_with_the_keyboard(
    service: RunningService, browser: Browser, api: httpx.Client
):
    """No pointer is needed to sign in, find a tenant, lead it through its life, or look back in the charts."""
    api.post("/v1/tenants", json={"id": "acme"})
    browser.driver.get(f"{service.url}/console/")
    browser.find("#key")
    browser.press(service.keys["admin"], Keys.ENTER)
    browser.see("Overview", "#view h1")
    assert browser.focused() == "Overview"
    browser.wait(lambda: answered_per_second(browser) > 0, "throughput")
    browser.tab_to("Look back")
    browser.press(Keys.HOME)
    browser.wait(lambda: "now" not in browser.text("output"), "a moment of before")
    assert "answered" in browser.find("#look-back").get_attribute("aria-valuetext")

    browser.driver.execute_script("document.activeElement.blur()")
    browser.tab_to("Skip to content")
    browser.press(Keys.ENTER)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "content"
    browser.open("#/tenants", "acme")
    browser.tab_to("Id begins with")
    browser.press("acme", Keys.ENTER)
    browser.see("Stable key", "#view")
    assert browser.focused() == "acme"

    browser.tab_to("Suspend")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press(Keys.ESCAPE)
    browser.gone("dialog")
    assert browser.focused() == "Suspend", "the focus is where it was"
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press("unpaid", Keys.ENTER)
    browser.see("suspended", ".title")
    browser.wait(lambda: browser.focused() != "", "the focus")
    browser.tab_to("Delete")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    assert browser.focused() == "Cancel", "a stray Enter deletes nothing"
    browser.tab_to("Delete")
    browser.press(Keys.ENTER)
    browser.see("deleted", ".title")

    browser.tab_to("Purge")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press("acm", Keys.ENTER)
    assert browser.find("dialog").is_displayed(), "what was typed is not its id"
    assert browser.complaints() == []
    browser.press("e", Keys.ENTER)
    browser.see("There are no tenants yet.", "#view")
    assert browser.focused() == "Tenants"


def test_what_others_chose_is_text_and_nothing_else(
    service: RunningService, browser: Browser, api: httpx.Client, tmp_path: Path
):
    """Markup in a tenant's name, a reason and an error is shown as it was written; and what would run it is forbidden."""
    api.post("/v1/tenants", json={"id": "globex"})
    (tmp_path / "until").touch()
    work = {"until": str(tmp_path / "until"), "failing": ["globex"], "says": HOSTILE}
    job = api.post("/v1/jobs", json={"kind": "hold", "failures_max": 0, "arguments": work}).json()
    api.post("/v1/tenants", json={"id": "acme", "display_name": HOSTILE})
    api.post("/v1/tenants/acme/suspend", json={"reason": HOSTILE})
    browser.sign_in(service.url, service.keys["admin"])
    for page in [f"#/fleet/{job['id']}", *PAGES[1:]]:
        browser.open(page, HOSTILE)
        assert browser.script("return document.querySelectorAll('#view img, #view script').length") == 0
    assert browser.script("return typeof window.hacked") == "undefined"
    assert browser.complaints() == []
    refusal = browser.script("document.body.innerHTML = arguments[0]", HOSTILE)
    assert "TrustedHTML" in refusal
    assert browser.text("#view h1") == "Audit"


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_it_can_be_read_on_a_telephone_by_day_and_by_night(
    service: RunningService, browser: Browser, api: httpx.Client, *, is_dark: bool
):
    """At 360 pixels nothing has to be scrolled sideways, whatever ids and names are; text has a contrast of 4.5 to 1.

    The same at widths in between.
    """
    longest = "a" * 48
    api.post("/v1/tenants", json={"id": longest, "display_name": "W" * 200})
    api.post("/v1/tenants", json={"id": "acme"})
    api.post("/v1/tenants/acme/suspend", json={"reason": "R" * 300})
    api.post(f"/v1/tenants/{longest}/snapshots")
    work = {"until": ".", "failing": [longest], "says": "S" * 300}
    job = api.post("/v1/jobs", json={"kind": "hold", "failures_max": 0, "arguments": work}).json()
    browser.show(360, 740, is_dark=is_dark)
    browser.driver.get(f"{service.url}/console/")
    browser.find("#key").send_keys("tnt_wrong", Keys.ENTER)
    browser.see("this key is unknown", "#sign-in-problem")
    assert browser.script(CONTRASTS) == []
    browser.complaints()  # of the wrong key
    browser.sign_in(service.url, service.keys["admin"])
    ground = browser.script("return getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", ground)[0]) < 128) is is_dark
    said = {"#/tenants/acme": "Stable key", "#/fleet": "stopped"}
    for page in [*PAGES, "#/fleet", f"#/fleet/{job['id']}", f"#/tenants/{longest}"]:
        browser.open(page, said.get(page, longest))
        browser.see("Live", "#freshness")
        for width in (360, 768, 840, 1024):
            browser.show(width, 740, is_dark=is_dark)
            assert browser.script(WIDER) == 0, (page, width)
        browser.show(360, 740, is_dark=is_dark)
        assert browser.script(CONTRASTS) == [], page
    browser.confirm("Quarantine")
    browser.see("Quarantine", "#activity")
    browser.click("Delete")
    browser.find("dialog")
    assert browser.script(WIDER) == 0
    assert browser.script(CONTRASTS) == []
    browser.click("Cancel", "//dialog")
    browser.open("#/fleet", "stopped")
    browser.click("Start job")
    browser.click_on("dialog summary")
    assert browser.script(WIDER) == 0
    assert browser.script(CONTRASTS) == []
    assert browser.complaints() == []


def test_many_tenants_come_in_pages_and_are_found(data_dir: Path, browser: Browser):
    """A hundred tenants are shown at once, more when asked for; the search finds also those that are not shown."""
    names = asyncio.run(make_fleet(data_dir, 103))
    with serving(data_dir, dict.fromkeys(names, 0)) as service:
        browser.sign_in(service.url, service.keys["read"])
        browser.open("#/tenants", "The first 100 tenants of a longer list.")
        assert "t-00102" not in browser.text("tbody")
        browser.find("#search").send_keys("t-0010")
        browser.wait(lambda: browser.text("#found") == "3 tenants", "all three that begin so")
        assert "t-00102" in browser.text("tbody")
        browser.press("9")
        browser.see("No tenant has an id that begins with t-00109.", "#view")
        browser.press(Keys.BACKSPACE, "1")
        browser.wait(lambda: browser.text("#found") == "1 tenant", "the one that begins so")
        browser.press(Keys.ENTER)
        browser.see("t-00101", "#view h1")
        browser.open("#/tenants", "t-00000")
        browser.click("Show 100 more")
        browser.wait(lambda: browser.text("#found") == "103 tenants", "all of them")
        assert not browser.driver.find_element(By.XPATH, "//button[.='Show 100 more']").is_displayed()
        browser.open("#/tenants?state=suspended", "No tenant is suspended.")
        assert browser.complaints() == []
