// A person's own pictures, kept as long as the page is open: an address holds their names, but cannot hold them.

const MAX_BYTES = 47 * 2 ** 20; // of all that ask together: a request of the server's 64 MB holds no more in base64
const AT_ONCE = 8;
const STORED = /^[0-9a-f]{40}$/;

const kept = new Map();

/**
 * Keep those of the files that can be asked with.
 * @returns {{names: string[], refused: string[]}} names for queries, and sentences about the other files
 */
export async function keep(files) {
  const names = [];
  const refused = [];
  let bytes = 0;
  for (const file of files) {
    const problem = refusal(file, names.length, bytes);
    if (problem) refused.push(`“${file.name}” ${problem}.`);
    else await add(file).then((name) => names.push(name), () => refused.push(`“${file.name}” cannot be read.`));
    bytes += problem ? 0 : file.size;
  }
  return { names, refused };
}

function refusal(file, number, bytes) {
  const limit = `${MAX_BYTES / 2 ** 20} MB`;
  if (!file.type.startsWith("image/")) return "is not a picture";
  if (file.size > MAX_BYTES) return `is larger than ${limit}`;
  if (number === AT_ONCE) return `was left out: ${AT_ONCE} pictures can be asked with at once`;
  if (bytes + file.size > MAX_BYTES) return `was left out: all pictures together would be larger than ${limit}`;
  return "";
}

async function add(file) {
  const name = `own-${Date.now().toString(36)}-${kept.size}`; // never one that an older page gave
  kept.set(name, { uri: await read(file), preview: URL.createObjectURL(file) });
  return name;
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** Whether a name is that of a picture of the person's own, not of a stored one. */
export function isOwn(name) {
  return !STORED.test(name);
}

/** Where a picture can be seen in small. */
export function preview(name) {
  return isOwn(name) ? (kept.get(name)?.preview ?? "/web/picture.svg") : `/thumbnails/${name}`;
}

/** Whether a picture can be asked with: of an address from elsewhere, the person's own cannot. */
export function isHere(name) {
  return !isOwn(name) || kept.has(name);
}

/** What stands for a picture in a request. */
export function uri(name) {
  return isOwn(name) ? kept.get(name).uri : `/images/${name}`;
}
