'use strict';
/* Tables that can be sorted and filtered. */

class Table {
  constructor(place) {
    this.place = place;
    this.body = place.querySelector('tbody');
    this.rows = [...this.body.rows];
    this.heads = [...place.querySelectorAll('thead th')];
    this.find = place.querySelector('.find');
    this.only = [...place.querySelectorAll('.only')];
    this.all = place.querySelector('button.all');
    this.limit = Number(place.dataset.shown);
    this.heads.forEach((head, column) => this.makeSortable(head, column));
    this.find.addEventListener('input', () => this.show());
    for (const box of this.only) box.addEventListener('change', () => this.show());
    this.all.addEventListener('click', () => {
      this.limit = this.limit === Infinity ? Number(place.dataset.shown) : Infinity;
      this.show();
    });
    this.show();
  }

  makeSortable(head, column) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent.trim();
    head.replaceChildren(button);
    button.addEventListener('click', () => this.sort(column));
  }

  /* Numbers begin with the largest, except ranks; texts and ranks in ascending order. The same again turns it round. */
  sort(column) {
    const head = this.heads[column];
    const before = head.getAttribute('aria-sort');
    const falling = head.classList.contains('n') && column !== 0;
    const order = before === null ? (falling ? 'descending' : 'ascending') : before === 'ascending' ? 'descending' : 'ascending';
    for (const other of this.heads) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', order);
    const sign = order === 'ascending' ? 1 : -1;
    const value = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.trim();
      return head.classList.contains('n') ? (text === '' ? -Infinity : parseFloat(text.replaceAll(',', ''))) : text;
    };
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    this.rows.sort((one, two) => sign * compare(value(one), value(two)));
    this.body.append(...this.rows);
    this.show();
  }

  /* A row fits where it has every word that was typed, as a whole word or the beginning of one. "layer 1" means that layer. */
  fits(row) {
    if (this.only.some((box) => box.checked && !row.classList.contains(box.value))) return false;
    const wanted = this.find.value.toLowerCase().replace(/\blayer\s+(\d+)/g, 'layer=$1').split(/\s+/).filter(Boolean);
    const cells = [...row.cells].map((cell) => cell.textContent.trim().toLowerCase());
    const layer = cells[this.heads.findIndex((head) => head.textContent.trim() === 'layer')];
    return wanted.every((word) => (word.startsWith('layer=') ? `layer=${layer}` === word : cells.some((cell) => cell.includes(word))));
  }

  show() {
    const fitting = this.rows.filter((row) => this.fits(row));
    const shown = new Set(fitting.slice(0, this.limit));
    for (const row of this.rows) row.hidden = !shown.has(row);
    this.place.querySelector('.count').textContent = `${shown.size} of ${this.rows.length} neurons shown`;
    this.all.hidden = this.limit !== Infinity && fitting.length <= this.limit;
    this.all.textContent = this.limit === Infinity ? 'Show fewer' : `Show all ${fitting.length} that match`;
  }
}

for (const place of document.querySelectorAll('.ranking')) new Table(place);
