"""The page in a headless Chromium: as a person uses it."""

import shutil

import pytest
from serving.running_server import EVIL, listening

from dgr_trainer import Rankings
from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.retrieval import Hit

webdriver = pytest.importorskip("selenium.webdriver", reason="drives the browser")
for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package, reason="the extra serve is not installed")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver (Debian: chromium-driver)"),
]

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

QUERY = "how do bees find flowers"


@pytest.fixture(scope="module")
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "window-size=1200,900"),
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """The browser at the width of a desk, in light colours, without what another test left."""
    chromium.get("about:blank")
    look(chromium, 1200, 900, "light")
    chromium.get_log("performance"), chromium.get_log("browser")
    return chromium


@pytest.fixture(scope="module")
def beside(retriever):
    """A server that shows a run beside the retriever."""
    from dgr_trainer.serving.systems import RetrieverSystem, RunSystem

    run = Rankings({"q": [(EVIL.id, 2.0), ("p14", 1.0)]})
    with listening({"student": RetrieverSystem(retriever), "bm25": RunSystem(run, {"q": QUERY})}) as url:
        yield url


def look(browser, width, height, colours):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": colours}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def until(browser, selector):
    WebDriverWait(browser, 20).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, selector))
    return browser.find_elements(By.CSS_SELECTOR, selector)


def status(browser, text):
    WebDriverWait(browser, 20).until(lambda driver: text in driver.find_element(By.ID, "status").text)


def ready(browser, url):
    browser.get(url)
    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script("return info !== null"))


def brightness(browser, selector, name):
    colour = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name
    )
    red, green, blue, *_ = (float(part) for part in colour.partition("(")[2].rstrip(")").split(","))
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def test_type_search_and_compare(browser, address, retriever):
    ready(browser, address)
    browser.find_element(By.ID, "query").send_keys(QUERY)
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    cards = until(browser, ".hit")
    status(browser, "10 passages in")
    hits = retriever.search(QUERY, 10)[0]
    assert len(cards) == len(hits) == 10
    titles = [card.find_element(By.TAG_NAME, "h3").text for card in cards]
    assert titles == [retriever.corpus.get(hit.passage_id).title for hit in hits]
    scores = [float(card.find_element(By.CLASS_NAME, "score").text.replace("−", "-")) for card in cards]
    assert scores == pytest.approx([hit.score for hit in hits], abs=0.06)
    # Bars: as long as what the identifier adds, against the best of the passage.
    first = cards[0].find_elements(By.CSS_SELECTOR, ".bars li")
    best = sorted((one.score for one in hits[0].identifiers), reverse=True)
    assert len(first) == len(best)
    widths = [float(row.find_element(By.CSS_SELECTOR, ".bar > span").size["width"]) for row in first[:5]]
    full = float(first[0].find_element(By.CLASS_NAME, "bar").size["width"])
    assert widths == pytest.approx([full * score / best[0] for score in best[:5]], abs=2)
    # The difference to the next one, identifier by identifier.
    summary = cards[0].find_element(By.CSS_SELECTOR, ".why summary")
    assert summary.text == "Why above the next one?"
    summary.click()
    table = until(browser, ".why[open] .difference")[0]
    total = [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tfoot td")]
    assert float(total[2]) == pytest.approx(hits[0].score - hits[1].score, abs=0.06)
    changes = [row.text.split()[-1] for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert sum(float(change.replace("−", "-")) for change in changes) == pytest.approx(float(total[2]), abs=0.2)
    assert not cards[-1].find_elements(By.CLASS_NAME, "why")


def test_marks_have_the_colour_of_the_view_and_are_darker_the_more_they_earned(browser, retriever):
    from dgr_trainer.serving.systems import RetrieverSystem

    encoded = [
        ("title", "Penicillin", 8.0),
        ("substring", "bacteria", 4.0),
        ("substring", "antibiotic", 2.0),
        ("pseudo_query", "first antibiotic", 6.0),
    ]
    identifiers = retriever.identifiers
    found = [
        MatchedIdentifier(view, (*identifiers.encode(text), *identifiers.end(view)), 1, score)
        for view, text, score in encoded
    ]

    class Known(RetrieverSystem):
        def search(self, queries, k, restriction):
            return [[Hit("p07", 20.0, tuple(found))] for _ in queries]

    with listening({"known": Known(retriever)}) as url:
        ready(browser, url + "/#q=penicillin")
        until(browser, ".hit")
        script = (
            "return [...document.querySelectorAll('.hit mark')].map(mark => [mark.textContent, mark.classList[0],"
            "Number(mark.style.getPropertyValue('--earned')), getComputedStyle(mark).backgroundColor])"
        )
        marks = {text: shown for text, *shown in browser.execute_script(script)}
    assert {text: shown[:2] for text, shown in marks.items()} == {
        "Penicillin": ["title", 1],  # In the title, not in the text.
        "bacteria": ["substring", 0.5],
        "first ": ["pseudo_query", 0.75],
        "antibiotic": ["pseudo_query", 0.75],  # In the text it is a substring, in the last mark of the pseudo-query.
    }
    alpha = {text: float(colour.rstrip(")").replace("/", ",").split(",")[-1]) for text, (*_, colour) in marks.items()}
    tint = {text: colour.rsplit("/", 1)[0].strip() for text, (*_, colour) in marks.items()}
    assert alpha["Penicillin"] > alpha["first "] > alpha["bacteria"] > 0
    assert len({tint["Penicillin"], tint["first "], tint["bacteria"]}) == 3


def test_without_a_mouse(browser, address):
    ready(browser, address)
    browser.switch_to.active_element.send_keys(QUERY, Keys.ENTER)  # The box has the focus.
    until(browser, ".hit")
    status(browser, "passages in")
    seen = set()
    for _ in range(60):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        seen.add(active.tag_name)
        outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", active.tag_name
        if active.tag_name == "li":  # An identifier lights its marks.
            lit = browser.find_elements(By.CSS_SELECTOR, "mark.lit")
            seen.add("lit" if lit else "")
        if active.tag_name == "summary" and active.text.startswith("Why"):
            active.send_keys(Keys.ENTER)
            until(browser, ".why[open] .difference")
            break
    else:
        pytest.fail("no comparison was reached with the tabulator")
    assert {"select", "button", "li", "lit", "summary"} <= seen
    browser.switch_to.active_element.send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "query"


def test_html_in_passages_is_text(browser, beside, client, served_corpus):
    ready(browser, beside)
    browser.find_element(By.ID, "query").send_keys(QUERY, Keys.ENTER)
    until(browser, ".hit")
    card = browser.find_element(By.CSS_SELECTOR, "section:last-child .hit")
    assert card.find_element(By.TAG_NAME, "h3").text == EVIL.title
    assert card.find_element(By.CLASS_NAME, "text").text == EVIL.text
    assert browser.find_elements(By.CSS_SELECTOR, "#results script, #results img, #results b, #results i") == []
    assert browser.find_element(By.TAG_NAME, "body").get_attribute("id") == ""
    # Even a script that got into the page would not run.
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.body.id = 2'; document.body.append(s);"
        "const html = '<img src=x onerror=\"document.body.id=3\">';"
        "document.querySelector('#results').insertAdjacentHTML('beforeend', html)"
    )
    assert browser.find_element(By.TAG_NAME, "body").get_attribute("id") == ""


def test_two_side_by_side(browser, beside):
    ready(browser, beside)
    assert browser.execute_script("return document.querySelector('#examples option').value") == QUERY
    browser.find_element(By.ID, "query").send_keys(QUERY, Keys.ENTER)
    sections = until(browser, "#results section")
    assert [section.find_element(By.TAG_NAME, "h2").text for section in sections] == ["student retriever", "bm25 run"]
    left, right = (section.rect for section in sections)
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    about = sections[1].find_elements(By.CSS_SELECTOR, ".hit .about")
    ids = [card.text.split(" · ")[0] for card in sections[0].find_elements(By.CSS_SELECTOR, ".hit .about")]
    place = ids.index("p14") + 1
    assert about[1].text == f"p14 · {place}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(place, 'th') } in student"
    box = browser.find_element(By.ID, "query")
    box.clear()
    box.send_keys("a query that the run lacks", Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda _: "no rank list" in browser.find_element(By.ID, "results").text)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_widths_and_colours(browser, beside, colours, width):
    look(browser, width, 800, colours)
    ready(browser, beside + "/#q=how+do+bees+find+flowers")
    until(browser, ".hit")
    for summary in browser.find_elements(By.CSS_SELECTOR, "summary")[:4]:
        browser.execute_script("arguments[0].click()", summary)
    until(browser, ".why[open] .difference")
    # Nothing is wider than the screen, and every control is large enough for a finger.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for control in browser.find_elements(By.CSS_SELECTOR, "#search input, #search select, #search button"):
        assert control.size["height"] >= 44
    sections = browser.find_elements(By.CSS_SELECTOR, "#results section")
    assert (sections[0].rect["x"] == sections[1].rect["x"]) == (width < 900)
    paper, ink = brightness(browser, "body", "backgroundColor"), brightness(browser, "body", "color")
    assert (paper > 0.9 and ink < 0.2) if colours == "light" else (paper < 0.15 and ink > 0.8)


def test_no_request_goes_to_another_host(browser, address):
    import json

    for path in ("/#q=bees", "/docs"):
        ready(browser, address + path) if path != "/docs" else browser.get(address + path)
    until(browser, "#operations section")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 6 and all(url.startswith((address, "data:", "about:")) for url in urls)
    problems = [entry["message"] for entry in browser.get_log("browser") if "healthz" not in entry["message"]]
    assert problems == []


def test_the_documentation_of_the_api_shows_it(browser, address):
    browser.get(address + "/docs")
    until(browser, "#operations section")
    text = browser.find_element(By.ID, "operations").text
    for name in ("/search", "/passages/{passage_id}", "/healthz", "/metrics", "queries", "at most 20", "retry-after"):
        assert name.lower() in text.lower()


def test_a_token_is_asked_for(browser, retriever):
    from dgr_trainer.serving.systems import RetrieverSystem

    with listening({"tiny": RetrieverSystem(retriever)}, token="s3cret") as url:
        browser.get(url)
        WebDriverWait(browser, 20).until(lambda driver: driver.find_element(By.ID, "token").is_displayed())
        browser.find_element(By.ID, "token").send_keys("wrong", Keys.ENTER)
        status(browser, "The token is wrong.")
        box = browser.find_element(By.ID, "token")
        box.clear()
        box.send_keys("s3cret", Keys.ENTER)
        WebDriverWait(browser, 20).until(lambda driver: driver.execute_script("return info !== null"))
        browser.find_element(By.ID, "query").send_keys("bees", Keys.ENTER)
        until(browser, ".hit")


def test_problems_are_told_and_the_way_back_works(browser, address):
    ready(browser, address)
    box = browser.find_element(By.ID, "query")
    box.send_keys("bees", Keys.ENTER)
    until(browser, ".hit")
    box.clear()
    box.send_keys("the sea", Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda driver: "the+sea" in driver.current_url)
    browser.back()
    WebDriverWait(browser, 20).until(
        lambda driver: driver.find_element(By.ID, "query").get_property("value") == "bees"
    )
    browser.execute_script(
        "info.limits.max_k = 1; const o = new Option('99'); o.selected = true; document.getElementById('k').append(o)"
    )
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    status(browser, "k: input should be less than or equal to 20")
