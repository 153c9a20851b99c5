"""The console in a real browser, on a real service with load."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browsers import Browser, RunningService, serving
from fleets import make_fleet
from tenants import database_path, held_writer, stored_contents

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


def tab_to(browser: Browser, text: str) -> None:
    """Go on with the Tab key until the focus is on something that says so."""
    for _ in range(80):
        if browser.focused() == text:
            return
        browser.press(Keys.TAB)
    pytest.fail(f"Tab never comes to {text!r}")


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
    browser.find("nav a[href='#/tenants']").click()
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
    browser.see("restore", "table[aria-label='Latest in the audit']")
    browser.confirm("Undo restore", "Undo the restore")
    browser.learn("Done in ")
    browser.wait(lambda: len(stored_contents(data_dir, "acme")) == later, "the rows of before")
    browser.see("undo restore", "table[aria-label='Latest in the audit']")

    browser.open("#/audit", "undo restore")
    browser.button("Verify the chain").click()
    browser.see("Intact: ", "#view")
    browser.button("Sign out").click()
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
    tab_to(browser, "Look back")
    browser.press(Keys.HOME)
    browser.wait(lambda: "now" not in browser.text("output"), "a moment of before")
    assert "answered" in browser.find("#look-back").get_attribute("aria-valuetext")

    browser.driver.execute_script("document.activeElement.blur()")
    tab_to(browser, "Skip to content")
    browser.press(Keys.ENTER)
    assert browser.driver.switch_to.active_element.get_attribute("id") == "content"
    browser.open("#/tenants", "acme")
    tab_to(browser, "Id begins with")
    browser.press("acme", Keys.ENTER)
    browser.see("Stable key", "#view")
    assert browser.focused() == "acme"

    tab_to(browser, "Suspend")
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
    tab_to(browser, "Delete")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    assert browser.focused() == "Cancel", "a stray Enter deletes nothing"
    tab_to(browser, "Delete")
    browser.press(Keys.ENTER)
    browser.see("deleted", ".title")

    tab_to(browser, "Purge")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press("acm", Keys.ENTER)
    assert browser.find("dialog").is_displayed(), "what was typed is not its id"
    assert browser.complaints() == []
    browser.press("e", Keys.ENTER)
    browser.see("There are no tenants yet.", "#view")
    assert browser.focused() == "Tenants"


def test_a_fleet_job_is_started_watched_and_steered_with_the_keyboard(
    service: RunningService, browser: Browser, api: httpx.Client, tmp_path: Path
):
    """A job is started, seen to go on, paused, resumed and seen to end; who failed is told with the error, and is a link."""
    for name in ("acme", "globex", "initech"):
        api.post("/v1/tenants", json={"id": name})
    browser.sign_in(service.url, service.keys["admin"])
    tab_to(browser, "Fleet")
    browser.press(Keys.ENTER)
    browser.see("There were no jobs yet.", "#view")
    tab_to(browser, "Start job")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press("hold")
    tab_to(browser, "More")
    browser.press(Keys.ENTER)
    tab_to(browser, "Tenants at once")
    browser.press(Keys.END, Keys.BACKSPACE, "1")
    tab_to(browser, "Arguments (optional)")
    until = tmp_path / "until"
    browser.press(json.dumps({"until": str(until), "failing": ["globex"], "says": "no luck"}))
    tab_to(browser, "Start")
    browser.press(Keys.ENTER)
    browser.see("running", ".title")
    browser.see("0 of 3", ".bar")

    tab_to(browser, "Pause")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press("the disks are busy", Keys.ENTER)
    browser.see("paused", ".title")
    browser.see("Reason: the disks are busy", ".notice")
    until.touch()
    browser.see("1 of 3", ".bar")
    browser.wait(lambda: browser.focused() != "", "the focus")
    tab_to(browser, "Resume")
    browser.press(Keys.ENTER)
    browser.find("dialog")
    browser.press(Keys.ENTER)
    browser.see("done", ".title")
    browser.see("3 of 3", ".bar")
    browser.see("no luck", "table[aria-label=Results]")
    assert "acme" not in browser.text("table[aria-label=Results]")
    tab_to(browser, "globex")
    browser.press(Keys.ENTER)
    browser.see("Stable key", "#view")
    assert browser.text("#view h1") == "globex"
    browser.open("#/fleet", "3 of 3")
    browser.wait(lambda: re.search(r"done\n?.*\n?3 of 3\n?.*2 1 0", browser.text("tbody")), "the counts")
    assert browser.complaints() == []


def test_who_may_only_look_is_offered_no_job_to_start_or_to_steer(
    service: RunningService, browser: Browser, api: httpx.Client, tmp_path: Path
):
    """Jobs are seen with a key that may read, steered with one that may do everything, and no matter of one tenant's key."""
    api.post("/v1/tenants", json={"id": "acme"})
    until = tmp_path / "until"
    started = api.post("/v1/jobs", json={"kind": "hold", "arguments": {"until": str(until)}}).json()
    browser.sign_in(service.url, service.keys["read"])
    browser.open("#/fleet", "0 of 1")
    browser.see("needs a key with the scope admin", "#view")
    browser.open(f"#/fleet/{started['id']}", "Failures allowed")
    browser.see("needs a key with the scope admin", "#view")
    buttons = browser.driver.find_elements(By.CSS_SELECTOR, "#view button")
    assert [button.text for button in buttons if button.is_displayed()] == []
    browser.open("#/fleet/none", "There is no job none.")
    browser.button("Sign out").click()

    browser.sign_in(service.url, service.keys["admin"])
    browser.open("#/fleet?state=running", "0 of 1")
    browser.find("tbody a").click()
    browser.confirm("Cancel", "Cancel the job", reason="not today")
    browser.see("cancelled", ".title")
    browser.see("not today", ".notice")
    browser.gone("#view [aria-label=Actions] button")
    until.touch()
    browser.open("#/fleet?state=running", "No job is running.")
    browser.button("Sign out").click()

    browser.sign_in(service.url, service.keys["acme"])
    assert "Fleet" not in browser.text("nav")
    browser.open("#/fleet", "This key is for some tenants only")
    assert len(browser.complaints()) == 1, "of the job that is not there"


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
    browser.button("Delete").click()
    browser.find("dialog")
    assert browser.script(WIDER) == 0
    assert browser.script(CONTRASTS) == []
    browser.button("Cancel", "//dialog").click()
    browser.open("#/fleet", "stopped")
    browser.button("Start job").click()
    browser.find("dialog summary").click()
    assert browser.script(WIDER) == 0
    assert browser.script(CONTRASTS) == []
    assert browser.complaints() == []


def test_many_tenants_come_in_pages_and_are_found(data_dir: Path, browser: Browser):
    """A hundred tenants are shown at once, more when asked for; the search finds also those that are not shown."""
    names = asyncio.run(make_fleet(data_dir, 103))
    with serving(data_dir, dict.fromkeys(names, 0)) as service:
        browser.sign_in(service.url, service.keys["read"])
        browser.open("#/tenants", "The first 100 tenants, there are more.")
        assert "t-00102" not in browser.text("tbody")
        browser.find("#search").send_keys("t-0010")
        browser.wait(lambda: browser.text("#found") == "3 tenants", "all three that begin so")
        assert "t-00102" in browser.text("tbody")
        browser.press("9")
        browser.see("No tenant is there whose id begins with t-00109.", "#view")
        browser.press(Keys.BACKSPACE, "1")
        browser.wait(lambda: browser.text("#found") == "1 tenant", "the one that begins so")
        browser.press(Keys.ENTER)
        browser.see("t-00101", "#view h1")
        browser.open("#/tenants", "t-00000")
        browser.button("Show 100 more").click()
        browser.wait(lambda: browser.text("#found") == "103 tenants", "all of them")
        assert not browser.driver.find_element(By.XPATH, "//button[.='Show 100 more']").is_displayed()
        browser.open("#/tenants?state=suspended", "No tenant is suspended.")
        assert browser.complaints() == []


def test_a_key_offers_what_it_is_good_for(service: RunningService, browser: Browser, api: httpx.Client):
    """What the key's scope does not allow cannot be pressed, and it says why; a key for some tenants sees only those."""
    for name in ("acme", "globex"):
        api.post("/v1/tenants", json={"id": name})

    def usable() -> set[str]:
        buttons = browser.driver.find_elements(By.CSS_SELECTOR, "#view [aria-label=Actions] button")
        return {button.text for button in buttons if button.is_enabled()}

    expected = {
        "read": set(),
        "operate": {"Snapshot", "Suspend", "Archive", "Clone", "Settings", "Quarantine"},
        "acme": {
            *("Snapshot", "Suspend", "Archive", "Clone", "Settings", "Quarantine"),
            *("Rename", "Undo restore", "Delete"),
        },
    }
    for key, may in expected.items():
        browser.sign_in(service.url, service.keys[key])
        browser.open("#/tenants/acme", "Stable key")
        assert usable() == may
        assert browser.driver.find_element(By.CSS_SELECTOR, "#view .hint").is_displayed() is (key != "acme")
        if key != "acme":
            browser.button("Sign out").click()
    browser.open("#/tenants", "acme")
    assert "globex" not in browser.text()
    browser.open("#/overview", "This key is for some tenants only")
    browser.open("#/audit", "say of which to show")
    browser.find("#of").send_keys("acme", Keys.ENTER)
    browser.see("create", "table")
    assert browser.complaints() == []


def test_a_refusal_is_told_where_it_was_asked(service: RunningService, browser: Browser, api: httpx.Client):
    """What the service refuses stays in the dialog with the reason; a key that is revoked ends the session; a wrong one begins none."""
    api.post("/v1/tenants", json={"id": "acme"})
    browser.driver.get(f"{service.url}/console/")
    browser.find("#key").send_keys("tnt_wrong")
    browser.button("Sign in").click()
    browser.see("this key is unknown, expired or revoked", "#sign-in-problem")
    browser.sign_in(service.url, service.keys["operate"])
    browser.open("#/tenants", "acme")
    browser.confirm("Create tenant", "Create", id="acme")
    browser.see("tenant 'acme' exists already", "dialog .problem")
    field = browser.find("dialog [name=id]")
    field.clear()
    field.send_keys("globex")
    browser.button("Create", "//dialog").click()
    browser.see("globex", "#view h1")

    browser.confirm("Settings", "Save", display_name=" Corporation")
    browser.see("globex Corporation", ".display-name")
    browser.button("Settings").click()
    api.patch("/v1/tenants/globex", json={"display_name": "Somebody else's"})
    browser.button("Save", "//dialog").click()
    browser.see("read it again", "dialog .problem")
    browser.button("Cancel", "//dialog").click()
    browser.see("Somebody else's", ".display-name")

    browser.open("#/tenants/initech", "There is no tenant initech.")
    tab_to(browser, "Create it")
    for _ in range(3):
        browser.wait(lambda: any("/initech" in url for url in browser.requests()), "one more look")
    assert browser.focused() == "Create it", "it is looked for again, and the focus stays"

    identity = next(key for key in api.get("/v1/keys").json()["items"] if key["scopes"] == ["operate"])
    api.delete(f"/v1/keys/{identity['id']}")
    browser.see("The key is good no longer", "#sign-in-problem")
    assert "globex" not in browser.text()


def test_long_work_shows_its_steps_and_its_end(
    service: RunningService, browser: Browser, api: httpx.Client, data_dir: Path
):
    """An operation's steps are seen as they happen, also after a reload; what succeeds leads on; if it fails, why."""
    api.post("/v1/tenants", json={"id": "acme"})
    api.post("/v1/tenants/acme/suspend")
    browser.driver.get(f"{service.url}/console/")
    browser.find("#key").send_keys(service.keys["admin"])
    browser.find("#keep").click()
    browser.button("Sign in").click()
    browser.see("Overview", "#view h1")
    browser.open("#/tenants/acme", "Stable key")
    # Compacting waits for whoever has the file.
    with held_writer(database_path(data_dir, "acme")):
        browser.confirm("Archive")
        browser.see("Begun, then closed. Running for ", "#activity")
        assert browser.find("#activity progress").is_displayed()
        browser.driver.refresh()
        browser.see("Archive: acme", "#activity")
        browser.see("Begun, then closed. Running for ", "#activity")
    browser.see("Done in ", "#activity")
    browser.see("archived", ".title")
    browser.button("Dismiss").click()
    browser.gone("#activity li")
    browser.confirm("Undo restore", "Undo the restore")
    browser.find("#activity [data-state=failed]")
    browser.see("never restored: there is nothing to undo", "#activity .entry-detail")
    browser.driver.refresh()
    browser.see("Stable key", "#view")
    browser.gone("#activity li")
    browser.button("Sign out").click()
    assert browser.script("return sessionStorage.length") == 0
    assert browser.complaints() == []


def test_it_says_since_when_it_knows_nothing(service: RunningService, browser: Browser, api: httpx.Client):
    """When the service is gone, what is shown stays, marked with the time from which on it is old."""
    api.post("/v1/tenants", json={"id": "acme"})
    browser.sign_in(service.url, service.keys["read"])
    browser.open("#/tenants", "acme")
    browser.see("Live", "#freshness")
    service.stop()
    browser.see("Stale since ", "#freshness")
    browser.see("The service cannot be reached.", "#problem")
    assert "acme" in browser.text("#view")


def test_a_key_is_kept_only_if_its_user_wants_that(service: RunningService, browser: Browser):
    """The page forgets the key with its window, unless it was told to keep it for the tab; signing out forgets it at once."""
    browser.sign_in(service.url, service.keys["read"])
    browser.driver.refresh()
    browser.find("#key").send_keys(service.keys["read"])
    browser.find("#keep").click()
    browser.button("Sign in").click()
    browser.see("Overview", "#view h1")
    browser.driver.refresh()
    browser.see("Overview", "#view h1")
    browser.button("Sign out").click()
    browser.driver.refresh()
    browser.find("#key")
    assert service.keys["read"] not in browser.script(
        "return document.documentElement.outerHTML + JSON.stringify({...sessionStorage, ...localStorage})"
    )
