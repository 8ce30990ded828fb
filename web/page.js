// The page. The address says what is asked, and `show` draws it: links, the search bar, files, back and forward all
// only change the address.

import { connect, load } from "./box.js";
import { element } from "./element.js";
import { isHere, isOwn, keep, preview, uri } from "./pictures.js";
import { address, body, describe, isEmpty, parse } from "./query.js";
import { grid, group, heading } from "./results.js";
import { get, post } from "./server.js";

const TITLE = document.title;
const OWN_HINT = "An address cannot hold your own picture: whoever opens it has to add the picture again.";
const LOST =
  "This search was made with a picture of somebody's own, which an address cannot hold. " +
  "Add it again, or search with words.";
const NOTHING = "Nothing is indexed yet. Run `python app.py -t index -d toy`, or `-d` with a folder of pictures.";
const FROM_ELSEWHERE =
  "This picture came as an address on another site, from which nothing is fetched. " +
  "Save it and drop the file, or copy it and paste it here.";
const REMEMBERED = 20;

const select = (selector) => document.querySelector(selector);
const bar = select("jina-searchbar");
const results = select("#results");
const notice = select("#notice");
const progress = select("#progress");
const avoid = select("#avoid input");
const hint = select("#hint");
const HINT = hint.textContent;

let asked; // the query of the address
let index = { pictures: 1, captions: 1 }; // until the server says what it has
let running = new AbortController();
let taken = 0; // how often a person has given pictures
const shown = new Map(); // by address, for back and forward

// ------------------------------------------------------------------------------------------------------ asking

/** Ask what an address says. */
function go(path) {
  const { href } = new URL(path, location);
  if (href !== location.href) history.pushState(null, "", href);
  show();
}

/** Ask with words, and with the pictures that are asked with already. */
function ask(text) {
  const pictures = asked.pictures.filter(isHere);
  go(address({ text, avoid: avoid.value.trim(), pictures, find: index.pictures ? "pictures" : "captions" }));
}

/** Ask with a person's own pictures. */
async function take(files) {
  const before = running;
  const turn = (taken += 1);
  const { names, refused } = await keep(files);
  if (running !== before || turn !== taken) return; // something else was asked meanwhile
  if (names.length) go(address({ pictures: names, find: index.captions ? "captions" : "pictures" }));
  if (refused.length) say(refused.join(" "));
}

/** Show the answer to the address; a query that is still running is given up. */
async function show() {
  const signal = begin();
  const { href } = location;
  progress.textContent = "Searching";
  document.body.classList.add("busy");
  try {
    const drawn = isEmpty(asked) ? await arrival(signal) : await answer(asked, signal);
    signal.throwIfAborted();
    remember(href, drawn);
    draw(drawn);
    scrollTo(0, 0);
  } catch (error) {
    if (signal.aborted) return;
    draw(isEmpty(asked) ? [] : [heading(asked)]);
    say(error.message, ...(error.cause ? [element("a", { href }, "Ask again")] : []));
  }
}

/** Show again what the address showed before. */
function showAgain() {
  if (!shown.has(location.href)) return show();
  begin();
  draw(shown.get(location.href));
}

// ----------------------------------------------------------------------------------------------------- answers

async function arrival(signal) {
  tell(signal);
  const samples = await get("/samples", signal);
  if (!samples.pictures.length && !samples.captions.length) throw new Error(NOTHING);
  const drawn = [element("h2", { tabindex: -1 }, "Find pictures with words, and words with pictures")];
  if (samples.captions.length) {
    const links = samples.captions.map((text) => element("li", {}, element("a", { href: address({ text }) }, text)));
    drawn.push(element("ul", { class: "examples", "aria-label": "Examples" }, ...links));
  }
  if (samples.pictures.length) drawn.push(element("h3", {}, "Or start with a picture"), grid(samples.pictures));
  return drawn;
}

async function answer(query, signal) {
  if (!query.text && !query.pictures.length) throw new Error("Say also what to look for, not only what to leave out.");
  if (!query.pictures.every(isHere)) throw new Error(LOST);
  const started = performance.now();
  const captions = query.find === "captions";
  const stored = query.pictures.map((name) => captions && !isOwn(name) && get(`/images/${name}/captions`, signal));
  const search = post("/search", body(query, query.pictures.map(uri)), signal);
  if (index.model === undefined) tell(signal);
  const [{ data }, ...own] = await Promise.all([search, ...stored]);
  // A picture is always most like itself.
  data.docs.forEach((doc, place) => {
    doc.matches = doc.matches.filter(({ id }) => id !== query.pictures[place]);
  });
  const number = data.docs.reduce((sum, doc) => sum + doc.matches.length, 0);
  const seconds = ((performance.now() - started) / 1000).toFixed(2);
  const groups = data.docs.map((doc, place) => group(query, doc, own[place]?.captions ?? [], place));
  return [heading(query, `${count(number, captions ? "caption" : "picture")} in ${seconds} s`), ...groups];
}

/** Say how much is indexed; what is asked does not wait for it, nor fail with it. */
async function tell(signal) {
  try {
    index = await get("/status", signal);
  } catch {
    return;
  }
  const counts = [count(index.pictures, "picture"), count(index.captions, "caption")];
  select("#facts").textContent = [...counts, index.model?.split(" ")[0]].filter(Boolean).join(" · ");
  document.body.classList.toggle("without-captions", !index.captions);
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// ----------------------------------------------------------------------------------------------------- drawing

/** Give up what is running and draw the question of the address. */
function begin() {
  running.abort();
  running = new AbortController();
  asked = parse(location.search);
  const { pictures } = asked;
  document.title = isEmpty(asked) ? TITLE : `${describe(asked)} – ${TITLE}`;
  bar.searchInput.value = asked.text;
  bar.searchInput.placeholder = pictures.length ? "Add words, such as: in the snow" : "A dog runs through the snow";
  avoid.value = asked.avoid;
  select("#avoid").open ||= Boolean(asked.avoid);
  hint.textContent = pictures.some(isOwn) ? OWN_HINT : pictures.length ? "" : HINT;
  select("#pictures").replaceChildren(...pictures.map(chip));
  notice.replaceChildren();
  return running.signal;
}

function chip(name) {
  const rest = { ...asked, pictures: asked.pictures.filter((other) => other !== name) };
  const image = element("img", { src: preview(name), alt: isOwn(name) ? "Your picture" : "A stored picture" });
  return element("li", {}, image, element("a", { href: address(rest), "aria-label": "Remove this picture" }, "×"));
}

function draw(drawn) {
  const inside = results.contains(document.activeElement);
  results.replaceChildren(...drawn);
  document.body.classList.remove("busy");
  progress.textContent = results.querySelector(".summary")?.textContent ?? "";
  if (inside) results.querySelector("h2")?.focus({ preventScroll: true });
}

function remember(href, drawn) {
  shown.delete(href);
  shown.set(href, drawn);
  if (shown.size > REMEMBERED) shown.delete(shown.keys().next().value);
}

/** Say something to the person; what is between backticks is to be typed. */
function say(words, ...more) {
  const parts = words.split("`").map((part, place) => (place % 2 ? element("code", {}, part) : part));
  notice.replaceChildren(element("p", {}, ...parts), ...more);
  notice.scrollIntoView({ block: "nearest" });
}

// -------------------------------------------------------------------------------------------------- what comes

/** Before Jina Box's own listener: it would fetch an address that is dropped. */
function drop(event) {
  event.preventDefault();
  event.stopPropagation();
  bar.clearExpander();
  const { files } = event.dataTransfer;
  const dropped = event.dataTransfer.getData("URL");
  const words = event.dataTransfer.getData("Text").trim();
  const url = URL.canParse(dropped) ? new URL(dropped) : null;
  if (url?.protocol === "blob:") return; // a picture of the person's own, which asks already
  if (url?.origin === location.origin) go(stored(url));
  else if (files.length) take(files);
  else if (url) say(FROM_ELSEWHERE);
  else if (words) ask(words);
}

/** The query of one of the page's own pictures or links. */
function stored({ pathname, search }) {
  const id = pathname.match(/^\/(?:images|thumbnails)\/([^/]+)$/)?.[1];
  return id ? address({ pictures: [id] }) : `/${search}`;
}

function paste(event) {
  const { files } = event.clipboardData;
  if (!files.length) return;
  event.preventDefault();
  take(files);
}

function follow(event) {
  const link = event.target.closest("a");
  const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || link?.target;
  if (!link || elsewhere || link.pathname !== "/") return;
  event.preventDefault();
  go(link.href);
}

if (await load(bar)) {
  connect(bar, ask, take);
  select("#ask").addEventListener("click", () => bar.search());
  avoid.addEventListener("keydown", (event) => event.key === "Enter" && !event.isComposing && bar.search());
  document.addEventListener("click", follow);
  document.addEventListener("drop", drop, true);
  document.addEventListener("paste", paste);
  addEventListener("popstate", showAgain);
  show();
} else {
  say("The search bar is missing. Run `npm ci` in the folder `web`, as `make demo` does, and load this page again.");
}
