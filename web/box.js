// Jina Box is the search bar: its input, its panel for files and the camera, its zone to drop things on. What a person
// asks is handed on, for the page asks and shows the results; only the live search of the camera answers in the panel.

const JINA_BOX = "/web/node_modules/jinabox/dist/jinabox.umd.min.js";
const NAMES = {
  ".jina-media-cancel-button, .jina-live-cancel-button": "Back",
  ".jina-take-photo-button": "Take a picture",
  ".jina-live-toggle-button": "Pause or go on",
  ".jina-video-select": "Camera",
  ".jina-capture-preview": "What the camera sees",
  ".jina-toolbar-button-list": "Show as a list",
  ".jina-toolbar-button-grid": "Show as a grid",
  ".jina-result-image": "A picture that was found",
};
const FIRST = ".jina-take-photo-button, .jina-media-search-button";
const ACTS_AS_BUTTON = ".jina-result, .jina-results-action-button, .jina-results-tab";

/**
 * Load Jina Box into its element. Of its markup an inline handler is left out, which the server's policy forbids.
 * @returns {Promise<boolean>} whether it is there
 */
export async function load(bar) {
  const { set } = Object.getOwnPropertyDescriptor(Element.prototype, "innerHTML");
  const setAllowed = (html) => set.call(bar, html.replace(/ onerror="[^"]*"/, ""));
  Object.defineProperty(bar, "innerHTML", { set: setAllowed, configurable: true });
  const loaded = await import(JINA_BOX).then(() => true, () => false);
  delete bar.innerHTML;
  return loaded;
}

/**
 * Connect the page to Jina Box.
 * @param bar the `jina-searchbar`
 * @param ask called with the words that a person has typed
 * @param take called with the files that a person has chosen or photographed
 */
export function connect(bar, ask, take) {
  const { searchInput: input, searchIcon: icon, contentContainer: panel } = bar;
  const { search, showError, capturePhoto } = bar;
  window.JinaBox.init("/search", { timeout: 30_000 });

  const close = () => {
    bar.clearExpander();
    if (document.activeElement === document.body) icon.focus(); // what had it was in the panel
  };
  bar.search = (queries, inBytes, type) => {
    if (type === "live") return search(queries, inBytes, type);
    close();
    if (matchMedia("(pointer: coarse)").matches) input.blur(); // its keyboard would cover the results
    if (queries) take(queries.map(photograph));
    else ask(input.value.trim());
  };
  bar.clearExpander = () => {
    // Jina Box's own empties the input too, and the panel a second time, when it may be open again.
    bar.clearMedia();
    bar.clearContentContainer();
    bar.dragCounter = 0;
    bar.highlighted = false;
    input.classList.remove("jina-highlighted");
  };
  bar.showError = (message) => {
    bar.clearMedia(); // a live search would go on
    showError(message);
  };
  bar.capturePhoto = () => bar.capturePreview.videoWidth && capturePhoto(); // not before there is something to see
  for (const name of ["getUserMediaStream", "getScreenMediaStream"]) {
    const open = bar[name];
    bar[name] = () => {
      bar.useAudio = false; // a picture needs no microphone
      return open();
    };
  }

  input.ariaLabel = "Describe what you look for";
  input.type = "search";
  input.enterKeyHint = "search";
  panel.role = "group";
  panel.ariaLabel = icon.alt = "Add a picture";
  icon.role = "button";
  icon.tabIndex = 0;
  icon.ariaExpanded = "false";
  new MutationObserver(() => {
    icon.ariaExpanded = String(panel.hasChildNodes());
    label(panel);
    // What was pressed is gone, or stands outside the panel that it has opened.
    if ([document.body, icon].includes(document.activeElement)) {
      (panel.querySelector(FIRST) ?? panel.querySelector("button"))?.focus();
    }
  }).observe(panel, { childList: true, subtree: true });

  bar.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel.hasChildNodes()) {
      close();
    } else if ((event.key === "Enter" || event.key === " ") && event.target.role === "button") {
      event.preventDefault();
      event.target.click();
    }
  });
  // Before Jina Box's own listeners: it would read files of any size, and empty the input.
  bar.addEventListener("change", (event) => {
    if (!event.target.files) return;
    event.stopPropagation();
    close();
    take(event.target.files);
  }, true);
  bar.addEventListener("click", (event) => {
    if (event.target !== bar.overlay) return;
    event.stopPropagation();
    close();
  }, true);
}

function label(panel) {
  for (const [selector, name] of Object.entries(NAMES)) {
    for (const one of panel.querySelectorAll(selector)) one[one.matches("img") ? "alt" : "ariaLabel"] = name;
  }
  for (const one of panel.querySelectorAll(ACTS_AS_BUTTON)) {
    one.role = "button";
    one.tabIndex = 0;
  }
  for (const image of panel.querySelectorAll("img:not([alt])")) image.alt = "";
  for (const files of panel.querySelectorAll("input[type=file]")) files.accept = "image/*";
}

function photograph(uri) {
  const [head, body] = uri.split(",");
  const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
  return new File([bytes], "photograph", { type: head.slice("data:".length, head.indexOf(";")) });
}
