// What answers look like.

import { element } from "./element.js";
import { preview } from "./pictures.js";
import { address, describe } from "./query.js";
import { sentence } from "./server.js";

// Wider or narrower pictures keep their proportions within a frame of these.
const NARROWEST = 0.7;
const WIDEST = 2.8;

/** The heading of a query's results, with the way to the other kind of results. */
export function heading(query, summary = "") {
  const tab = (find, name) =>
    element("a", { href: address({ ...query, find }), ...(query.find === find && { "aria-current": "true" }) }, name);
  return element(
    "div",
    { class: "heading" },
    element("h2", { tabindex: -1 }, describe(query)),
    element("p", { class: "summary" }, summary),
    element(
      "nav",
      { class: "captions", "aria-label": "What to find" },
      tab("pictures", "Pictures"),
      tab("captions", "Captions"),
    ),
  );
}

/**
 * What one of a query's pictures found, or the query if it has none.
 * @param doc the server's answer to it
 * @param own the captions that the picture has itself
 * @param place which picture it is, from 0 on
 */
export function group(query, doc, own, place) {
  const parts = [];
  const matches = doc.matches.map(found);
  if (own.length) parts.push(element("h3", {}, "Its own captions"), list(own.map((text) => ({ text }))));
  if (own.length && matches.length) parts.push(element("h3", {}, "Captions that fit it"));
  if (doc.error) parts.push(element("p", {}, sentence(doc.error)));
  else if (!matches.length) parts.push(element("p", {}, "Nothing was found."));
  else parts.push(query.find === "captions" ? list(matches) : grid(matches));

  const { length } = query.pictures;
  if (!length || (length === 1 && query.find === "pictures")) return element("section", {}, ...parts);
  const number = length > 1 ? `Picture ${place + 1} of ${length}` : "The picture";
  const picture = element("img", { src: preview(query.pictures[place]), alt: number });
  const look = query.find === "captions" ? "group beside" : "group";
  return element("section", { class: look }, picture, element("div", {}, ...parts));
}

function found({ text, score, tags }) {
  return { ...tags, text, distance: score.value };
}

/** Pictures in rows: an object for each with id, thumbnail, text, width, height, and the distance if it was found. */
export function grid(pictures) {
  return element("ol", { class: "grid" }, ...pictures.map(card));
}

function card({ id, thumbnail, text, width, height, distance }) {
  const name = text || "a picture without a caption";
  const image = element("img", { src: thumbnail, alt: name, width, height, loading: "lazy", decoding: "async" });
  const like = { class: "frame", href: address({ pictures: [id] }), title: "More like this" };
  const toCaptions = address({ pictures: [id], find: "captions" });
  const captions = { class: "captions", href: toCaptions, "aria-label": `Captions of ${name}` };
  const open = { href: `/images/${id}`, target: "_blank", "aria-label": `Open ${name}` };
  const more = [...score(distance), element("a", captions, "Captions"), element("a", open, "Open")];
  const made = element(
    "li",
    {},
    element("a", like, image),
    element("p", { class: "caption", title: text }, text),
    element("p", { class: "more" }, ...more),
  );
  made.style.setProperty("--ratio", Math.min(Math.max(width / height || 1, NARROWEST), WIDEST));
  return made;
}

/** Captions: an object for each with text, and the distance if it was found. */
function list(captions) {
  const line = ({ text, distance }) => [element("a", { href: address({ text }) }, text), ...score(distance)];
  return element("ol", { class: "list" }, ...captions.map((caption) => element("li", {}, ...line(caption))));
}

function score(distance) {
  if (distance === undefined) return [];
  const name = element("span", { class: "hidden" }, "Similarity ");
  const title = "Similarity: 1 is the same, 0 unrelated";
  const similarity = Math.round(100 * (1 - distance)) / 100; // rounded first: never "-0.00"
  return [element("span", { class: "score", title }, name, similarity.toFixed(2))];
}
