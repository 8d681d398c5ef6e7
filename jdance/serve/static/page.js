// Elements and texts of the page.

export const $ = (id) => document.getElementById(id);

/** Creates an element; `dataset` and the like are set by the caller. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function showError(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  $("error").scrollIntoView({ block: "nearest" });
}

/** Tells screen readers. */
export function announce(text) {
  if ($("announce").textContent !== text) $("announce").textContent = text;
}

/** Formats a duration in seconds as 2 min 5 s. */
export function duration(seconds) {
  const rounded = Math.max(1, Math.round(seconds));
  return rounded < 60 ? `${rounded} s` : `${Math.floor(rounded / 60)} min ${rounded % 60} s`;
}

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
