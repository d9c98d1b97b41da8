// The only way to the server. Every answer is JSON; an error says what to do.

export class Refused extends Error {}

async function answerOf(promise) {
  let response;
  try {
    response = await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The studio does not answer; is it still running in its terminal?");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(body.error ?? `The studio answered with status ${response.status}.`);
  return body;
}

export function get(path, parameters = {}, signal = undefined) {
  const query = new URLSearchParams(parameters).toString();
  return answerOf(fetch(query ? `${path}?${query}` : path, { signal }));
}

export function post(path, message, signal = undefined) {
  const headers = { "content-type": "application/json" };
  return answerOf(fetch(path, { method: "POST", headers, body: JSON.stringify(message), signal }));
}

export function send(path, parameters, content) {
  const query = new URLSearchParams(parameters).toString();
  const headers = { "content-type": "application/octet-stream" };
  return answerOf(fetch(`${path}?${query}`, { method: "POST", headers, body: content }));
}

/** Return a function that runs the newest of its calls only: what was still under way is given up. */
export function newest(wait = 0) {
  let controller = new AbortController();
  let timer = 0;
  return (task) => {
    controller.abort();
    clearTimeout(timer);
    controller = new AbortController();
    const { signal } = controller;
    timer = setTimeout(() => {
      task(signal).catch((error) => {
        if (error.name !== "AbortError") throw error;
      });
    }, wait);
  };
}
