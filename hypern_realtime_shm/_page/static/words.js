// Words, numbers and elements, as text.

/** An element with attributes and children; strings become text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Text that strangers chose: what cannot be seen, or turns the direction of what follows, is shown escaped. */
export function plain(text) {
  return text.replace(/[^\P{C}\n\t]|[\u2028\u2029]/gu, (each) => `\\u{${each.codePointAt(0).toString(16)}}`);
}

const whole = new Intl.NumberFormat("en");
const tenths = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => whole.format(value);

/** How many of something. */
export const some = (value, what) => `${count(value)} ${what}${value === 1 ? "" : "s"}`;
export const rate = (value) => (value >= 100 ? whole : tenths).format(value >= 100 ? Math.round(value) : value);
export const when = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

/** Bytes. */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  while (value >= 1024 && units.length > 1) {
    value /= 1024;
    units.shift();
  }
  return `${short.format(value)} ${units[0]}`;
}

/** A duration. */
export function span(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length * 2) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}
