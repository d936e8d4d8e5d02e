// A table whose headings sort, and which keeps its rows' elements (and so the focus) from one look to the next.
import { element, plain } from "./words.js";

const MOST = 200; // rows shown

export class Table {
  #body = element("tbody");
  #rows = new Map(); // key → element
  #latest = new Map(); // key → what it shows
  #headings = new Map();
  #descending = true;

  /** columns: {id, title, value(row), text(value, row)?, kind: "name" | "number"?, open(row)?, bad(row)?, wide?} */
  constructor(table, { key, columns, caption, sort = null }) {
    this.key = key;
    this.columns = columns;
    this.sort = sort;
    this.onsort = () => {};
    const headings = columns.map((column) => {
      const button = element("button", { type: "button" }, column.title);
      const heading = element("th", { scope: "col", class: this.#classes(column) }, button);
      button.addEventListener("click", () => this.#choose(column));
      this.#headings.set(column.id, heading);
      return heading;
    });
    table.setAttribute("aria-label", caption);
    table.append(element("thead", {}, element("tr", {}, ...headings)), this.#body);
    this.#mark();
  }

  #classes(column) {
    return [column.kind, column.wide ? "wide" : null].filter(Boolean).join(" ");
  }

  #choose(column) {
    this.#descending = this.sort === column.id ? !this.#descending : column.kind === "number";
    this.sort = column.id;
    this.#mark();
    this.onsort();
  }

  #mark() {
    for (const [id, heading] of this.#headings) {
      heading.setAttribute("aria-sort", id !== this.sort ? "none" : this.#descending ? "descending" : "ascending");
    }
  }

  #sorted(rows) {
    const column = this.columns.find((each) => each.id === this.sort);
    if (!column) return rows;
    const sign = this.#descending ? -1 : 1;
    const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    const names = this.columns.find((each) => each.kind === "name");
    return [...rows].sort((a, b) => sign * order(column.value(a), column.value(b)) || order(names.value(a), names.value(b)));
  }

  /** Shows rows; gives how many are too many to be shown. */
  show(rows, current = null) {
    const focused = this.#body.contains(document.activeElement) ? document.activeElement : null;
    const wanted = this.#sorted(rows).slice(0, MOST).map((row, index) => {
      const key = this.key(row, index);
      this.#latest.set(key, row);
      const line = this.#rows.get(key) ?? this.#made(key);
      this.#fill(line, row);
      line.setAttribute("aria-current", String(key === current));
      return [key, line];
    });
    const kept = new Map(wanted);
    for (const [key, line] of this.#rows) {
      if (!kept.has(key)) {
        line.remove();
        this.#latest.delete(key);
      }
    }
    this.#rows = kept;
    wanted.forEach(([, line], index) => {
      if (this.#body.children[index] !== line) this.#body.insertBefore(line, this.#body.children[index] ?? null);
    });
    if (focused?.isConnected) focused.focus({ preventScroll: true }); // moving its row has taken it
    return Math.max(0, rows.length - MOST);
  }

  #made(key) {
    return element("tr", {}, ...this.columns.map((column) => {
      const cell = element("td", { class: this.#classes(column) });
      if (column.kind === "name") {
        const row = this.#latest.get(key);
        const act = column.open?.(row);
        const text = element("span", { class: "long" });
        if (act) {
          const button = element("button", { type: "button" }, text);
          button.addEventListener("click", () => act(this.#latest.get(key), key));
          cell.append(button);
        } else {
          cell.append(text);
        }
      }
      return cell;
    }));
  }

  #fill(line, row) {
    this.columns.forEach((column, index) => {
      const cell = line.children[index];
      const value = column.value(row);
      const text = column.text ? column.text(value, row) : plain(String(value));
      const into = cell.querySelector(".long") ?? cell;
      if (into.textContent !== text) into.textContent = text;
      cell.classList.toggle("bad", column.bad?.(row) ?? false);
    });
  }
}
