// A query is what a person asks: { text, avoid, pictures, find }. `pictures` are ids of stored pictures and names of
// the person's own (see pictures.js), `find` is "pictures" or "captions". Addresses hold it, so that it can be shared.

const TOP_K = { pictures: 50, captions: 20 };
const AVOID_WEIGHT = -0.5;

/** The query in the search part of an address, such as `?q=a+dog&not=snow&image=6a5e…&find=captions`. */
export function parse(search) {
  const fields = new URLSearchParams(search);
  return {
    text: fields.get("q")?.trim() ?? "",
    avoid: fields.get("not")?.trim() ?? "",
    pictures: fields.getAll("image"),
    find: fields.get("find") === "captions" ? "captions" : "pictures",
  };
}

/** The address of a query; what is left out is empty. */
export function address({ text = "", avoid = "", pictures = [], find = "pictures" }) {
  const fields = new URLSearchParams();
  if (text) fields.set("q", text);
  for (const picture of pictures) fields.append("image", picture);
  if (avoid) fields.set("not", avoid);
  if (find === "captions") fields.set("find", find);
  return fields.size ? `/?${fields}` : "/";
}

/** Whether nothing is asked, as on arrival. */
export function isEmpty({ text, avoid, pictures }) {
  return !text && !avoid && !pictures.length;
}

/** The body of a query's request: each picture asks for itself, together with the words. */
export function body({ text, avoid, find }, uris) {
  const words = [];
  if (text) words.push({ text });
  if (avoid) words.push({ text: avoid, weight: AVOID_WEIGHT });
  const data = uris.length ? uris.map((image) => [{ image }, ...words]) : [words];
  return { data, parameters: { top_k: TOP_K[find], target: find === "captions" ? "text" : "image" } };
}

/** A query in words, as the heading of its results. */
export function describe({ text, avoid, pictures, find }) {
  const words = text && `“${text}”`;
  const several = pictures.length > 1 && `each of these ${pictures.length}`;
  let heading = "Pictures";
  if (find === "captions") heading = "Captions";
  if (pictures.length && find === "captions") heading += ` for ${several ? `${several} pictures` : "this picture"}`;
  else if (pictures.length) heading += ` like ${several || "this one"}`;
  else if (words) heading += ` ${find === "captions" ? "like" : "for"} ${words}`;
  if (pictures.length && words) heading += `, with ${words}`;
  return avoid ? `${heading}, without “${avoid}”` : heading;
}
