// What answers look like.

import { element } from "./element.js";
import { address } from "./query.js";

// Wider or narrower pictures keep their proportions within a frame of these.
const NARROWEST = 0.7;
const WIDEST = 2.8;

/** Pictures in rows: an object for each with id, thumbnail, text, width, height, and the distance if it was found. */
export function grid(pictures) {
  return element("ol", { class: "grid" }, ...pictures.map(card));
}

/** Captions: an object for each with text, and the distance if it was found. */
export function list(captions) {
  const line = ({ text, distance }) => element("li", {}, element("a", { href: address({ text }) }, text), ...score(distance));
  return element("ol", { class: "list" }, ...captions.map(line));
}

/** A match of the server as `grid` and `list` take it. */
export function found({ text, score, tags }) {
  return { ...tags, text, distance: score.value };
}

function card({ id, thumbnail, text, width, height, distance }) {
  const name = text || "a picture without a caption";
  const image = element("img", { src: thumbnail, alt: name, width, height, loading: "lazy", decoding: "async" });
  const made = element(
    "li",
    {},
    element("a", { class: "frame", href: address({ pictures: [id] }), title: "More like this" }, image),
    element("p", { class: "caption", title: text }, text),
    element(
      "p",
      { class: "more" },
      ...score(distance),
      element("a", { class: "captions", href: address({ pictures: [id], find: "captions" }), "aria-label": `Captions of ${name}` }, "Captions"),
      element("a", { href: `/images/${id}`, target: "_blank", "aria-label": `Open ${name}` }, "Open"),
    ),
  );
  made.style.setProperty("--ratio", Math.min(Math.max(width / height, NARROWEST), WIDEST));
  return made;
}

function score(distance) {
  if (distance === undefined) return [];
  const similarity = (1 - distance).toFixed(2);
  return [element("span", { class: "score", title: "Similarity: 1 is the same, 0 unrelated" }, element("span", { class: "hidden" }, "Similarity "), similarity)];
}
