// The server's answers. Whatever goes wrong becomes an Error whose message is a sentence for a person; it has a cause if
// the same request may succeed another time.

const PATIENCE = 30_000;
const UPLOAD = 1_000; // bytes in a millisecond that a slow network carries at least

/** The answer to a GET. */
export function get(path, signal) {
  return ask(path, { signal }, PATIENCE);
}

/** The answer to a POST of JSON. */
export function post(path, data, signal) {
  const body = JSON.stringify(data);
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", body, headers, signal }, PATIENCE + body.length / UPLOAD);
}

async function ask(path, options, patience) {
  const timeout = AbortSignal.timeout(patience);
  let response, answer;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.any([options.signal, timeout]) });
    answer = await response.json();
  } catch (error) {
    throw new Error(explain(error, response, timeout), { cause: error });
  }
  if (!response.ok) {
    const words = sentence(answer.status?.description ?? `status ${response.status}`);
    throw new Error(words, response.status < 500 ? {} : { cause: response });
  }
  return answer;
}

function explain(error, response, timeout) {
  if (timeout.aborted) return "The server has not answered in time. It may be busy: ask again in a moment.";
  if (error instanceof SyntaxError) return `The server gave an answer that cannot be read (status ${response.status}).`;
  return "The server does not answer. Start it with `python app.py -t query`, then ask again.";
}

/** The server's words as a sentence of the page. */
export function sentence(words) {
  const clean = words.replace(/^query \d+: /, "");
  return clean.charAt(0).toUpperCase() + clean.slice(1) + (/[.!?]$/.test(clean) ? "" : ".");
}
