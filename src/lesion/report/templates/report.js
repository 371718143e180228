'use strict';
/* The slider. What it shows comes from the JSON beside it; texts are only ever set as text, never as HTML. */

document.documentElement.classList.add('scripted');

/* -- state in the address: #k=4&mode=gibberish, readable and shareable; with several studies r2.k=4 -- */
const address = {
  read(name) {
    return new URLSearchParams(location.hash.slice(1)).get(name);
  },
  write(name, value) {
    const state = new URLSearchParams(location.hash.slice(1));
    if (value === null || value === '') state.delete(name);
    else state.set(name, value);
    const text = state.toString();
    try {
      history.replaceState(null, '', text ? '#' + text : location.pathname + location.search);
    } catch (error) {
      /* Some browsers allow a local file no history, or limit how often; the page works without. */
    }
  },
};

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function badge(mode, text) {
  const sign = make('span', 'sign');
  sign.setAttribute('aria-hidden', 'true');
  return make('span', 'mode ' + mode, sign, text);
}

const TAGS = { '+': 'ins', '-': 'del' };

function showPieces(place, pieces) {
  place.replaceChildren(...pieces.map(([kind, text]) => (TAGS[kind] ? make(TAGS[kind], '', text) : text)));
}

class Slider {
  constructor(section, study) {
    this.data = JSON.parse(section.querySelector('.payload').textContent);
    this.section = section;
    this.prefix = study.dataset.prefix;
    this.input = section.querySelector('input[type="range"]');
    this.columns = section.querySelector('.columns');
    this.cards = [...section.querySelectorAll('.card')];
    this.labels = [...section.querySelectorAll('.labels span')];
    this.byCategory = section.querySelector('.by-category');
    this.byMode = section.querySelector('.by-mode');
    this.chart = study.querySelector('svg.chart[data-xs]');
    this.listen();
    this.restore();
    this.arrange();
    this.show();
  }

  listen() {
    this.input.addEventListener('input', () => this.show());
    this.input.addEventListener('change', () => this.remember());
    this.columns.addEventListener('click', (event) => {
      const box = this.columns.getBoundingClientRect();
      this.go(Math.floor(((event.clientX - box.left) / box.width) * this.data.ks.length));
    });
    for (const button of this.section.querySelectorAll('.jumps button')) {
      button.addEventListener('click', () => this.go(Number(button.dataset.to)));
    }
    for (const select of [this.byCategory, this.byMode]) {
      if (select) select.addEventListener('change', () => this.settle());
    }
    for (const button of this.section.querySelectorAll('.unfold')) {
      const closed = button.textContent;
      button.addEventListener('click', () => {
        const open = button.closest('.card').classList.toggle('unfolded');
        button.setAttribute('aria-expanded', String(open));
        button.textContent = open ? 'Show less' : closed;
      });
    }
    this.cards.forEach((card, i) => {
      card.querySelector('.id').addEventListener('click', () => {
        const again = card.classList.contains('chosen');
        this.choose(again ? -1 : i, false);
        address.write(this.prefix + 'image', again ? null : i + 1);
      });
    });
    if (this.chart) this.chart.addEventListener('click', (event) => this.goNear(event));
    new ResizeObserver(() => this.arrange()).observe(this.section);
  }

  /* A click on the curve goes to the nearest k; the slider does the same by keyboard. */
  goNear(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.chart.getScreenCTM().inverse());
    const distances = this.data.xs.map((x) => Math.abs(x - point.x));
    this.go(distances.indexOf(Math.min(...distances)));
  }

  go(position) {
    this.input.value = String(position);
    this.settle();
  }

  settle() {
    this.show();
    this.remember();
  }

  restore() {
    const k = address.read(this.prefix + 'k');
    const at = k === null ? -1 : this.data.ks.indexOf(Number(k));
    this.input.value = String(at >= 0 ? at : this.data.start);
    const category = this.data.categories.indexOf(address.read(this.prefix + 'category'));
    if (this.byCategory && category >= 0) this.byCategory.value = String(category);
    const mode = this.data.modes.indexOf(address.read(this.prefix + 'mode'));
    if (mode >= 0) this.byMode.value = String(mode);
    this.choose(Number(address.read(this.prefix + 'image')) - 1, true);
  }

  /* One card, counted from 1 in the address: #k=4&image=3. */
  choose(at, scroll) {
    this.cards.forEach((card, i) => card.classList.toggle('chosen', i === at));
    if (scroll && this.cards[at]) this.cards[at].scrollIntoView({ block: 'center' });
  }

  remember() {
    const at = Number(this.input.value);
    address.write(this.prefix + 'k', at === this.data.start ? null : this.data.ks[at]);
    address.write(this.prefix + 'mode', this.byMode.value === '' ? null : this.data.modes[this.byMode.value]);
    if (this.byCategory) {
      address.write(this.prefix + 'category', this.byCategory.value === '' ? null : this.data.categories[this.byCategory.value]);
    }
  }

  /* Names of k stand under the slider where they find room. */
  arrange() {
    const panel = this.input.parentElement;
    panel.style.setProperty('--n', this.data.ks.length);
    const longest = Math.max(...this.data.names.map((name) => name.length));
    panel.classList.toggle('dense', panel.clientWidth / this.data.ks.length < 8 * longest + 10);
  }

  show() {
    const at = Number(this.input.value);
    const { data } = this;
    const says = `k = ${data.names[at]} of ${data.total} · ${data.stages[at]}`;
    const modes = this.cards.map((_, i) => data.cards[i][at][1]);
    const shares = data.modes
      .map((mode, i) => [mode, modes.filter((other) => other === i).length])
      .filter(([, count]) => count > 0);
    this.input.setAttribute('aria-valuetext', `${says}; ${shares.map(([mode, n]) => `${n} ${mode}`).join(', ')}`);
    this.section.querySelector('.state .k').textContent = says;
    this.section.querySelector('.shares').replaceChildren(
      ...shares.map(([mode, n]) => badge(mode, `${mode} ${n} of ${this.cards.length} (${Math.round((100 * n) / this.cards.length)} %)`)),
    );
    this.columns.querySelector('.now').setAttribute('x', String(at));
    this.labels.forEach((label, i) => {
      label.classList.toggle('here', i === at);
      label.dataset.k = data.names[i];
    });
    this.cards.forEach((card, i) => this.showCard(card, data.cards[i], at));
    this.mark(at);
    this.filter(modes);
  }

  showCard(card, row, at) {
    const [text, mode, clip] = row[at];
    const name = this.data.modes[mode];
    const which = make('span', 'which', `k = ${this.data.names[at]}`);
    card.querySelector('.at-k .badge').replaceChildren(which, badge(name, name));
    showPieces(card.querySelector('.at-k .says'), this.data.texts[text]);
    card.classList.toggle('same-as-intact', row[at][0] === row[0][0]);
    const intact = row[0][2];
    card.querySelector('.clip-score').textContent =
      clip === '' || intact === '' ? '' : `· ${this.data.clip} ${at === 0 ? '' : intact + ' → '}${clip}`;
  }

  /* Where we are on the curve. */
  mark(at) {
    const now = this.chart && this.chart.querySelector('.now');
    if (!now || this.data.xs.length <= at) return;
    now.classList.add('placed');
    now.setAttribute('transform', `translate(${this.data.xs[at]} 0)`);
  }

  filter(modes) {
    const category = this.byCategory ? this.byCategory.value : '';
    let shown = 0;
    this.cards.forEach((card, i) => {
      const fits = (category === '' || card.dataset.category === category)
        && (this.byMode.value === '' || Number(this.byMode.value) === modes[i]);
      card.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    this.section.querySelector('.tools .count').textContent =
      shown === this.cards.length ? `${shown} answers` : `${shown} of ${this.cards.length} answers`;
  }
}

for (const study of document.querySelectorAll('.study')) {
  for (const section of study.querySelectorAll('.slider')) new Slider(section, study);
}

/* On paper, every study of a comparison is open. */
addEventListener('beforeprint', () => {
  for (const study of document.querySelectorAll('details.study')) study.open = true;
});

/* The dose slider: answers with the critical neurons multiplied by a factor. */
class Dose {
  constructor(section) {
    this.data = JSON.parse(section.querySelector('.payload').textContent);
    this.section = section;
    this.input = section.querySelector('input[type="range"]');
    this.input.value = String(this.data.start);
    this.input.addEventListener('input', () => this.show());
    this.show();
  }

  show() {
    const at = Number(this.input.value);
    const { data, section } = this;
    this.input.setAttribute('aria-valuetext', `times ${data.factors[at]}, ${data.states[at]}`);
    section.querySelector('.factor').textContent = data.factors[at];
    section.querySelector('.state').textContent = data.states[at];
    section.querySelector('.doses').replaceChildren(
      ...data.samples.flatMap((name, i) => {
        const said = make('dd', data.answers[at][i] === data.answers[data.start][i] ? 'same' : 'other', data.answers[at][i] || '(empty)');
        said.dir = 'auto';
        return [make('dt', '', name), said];
      }),
    );
  }
}

for (const section of document.querySelectorAll('.dose')) new Dose(section);
