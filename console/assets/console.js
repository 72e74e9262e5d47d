// Everything works without this script: it copies ids, shows times in the reader's own
// zone, and keeps a page that may refresh itself up to date.
'use strict';

document.documentElement.classList.add('js');

function localTimes(root) {
  const format = new Intl.DateTimeFormat(undefined, {
    year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false,
  });
  for (const t of root.querySelectorAll('time[datetime]')) {
    const at = new Date(t.getAttribute('datetime'));
    if (isNaN(at) || t.dataset.utc) continue;
    t.dataset.utc = t.textContent;
    t.title = t.textContent;
    t.textContent = format.format(at);
  }
}

document.addEventListener('click', async (event) => {
  const button = event.target.closest('button[data-copy]');
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.classList.add('copied');
    document.getElementById('said').textContent = 'Copied ' + button.dataset.copy;
    setTimeout(() => button.classList.remove('copied'), 1200);
  } catch {
    document.getElementById('said').textContent = 'The browser does not let pages copy here.';
  }
});

// A page is not replaced under somebody who writes in it, reads a part that was opened, or
// has selected a text.
function busy() {
  const at = document.activeElement;
  return document.hidden || (at && at.closest('main form, main details')) ||
    document.querySelector('main details[open]') || String(window.getSelection()) !== '';
}

async function refresh() {
  if (busy()) return;
  try {
    const reply = await fetch(location.href, { headers: { 'Creditmirror-Refresh': '1' }, redirect: 'error', cache: 'no-store' });
    if (!reply.ok) return;
    const next = new DOMParser().parseFromString(await reply.text(), 'text/html').querySelector('main');
    const now = document.querySelector('main');
    if (!next || busy()) return;
    now.replaceChildren(...next.childNodes);
    now.toggleAttribute('data-pending', next.hasAttribute('data-pending'));
    localTimes(now);
  } catch {
    // The next one may succeed.
  }
}

// A page whose figures are still being computed asks for them until they are there; without
// scripts it loads itself again.
function awaitFigures() {
  if (!document.querySelector('main[data-pending]')) return;
  setTimeout(async () => {
    await refresh();
    awaitFigures();
  }, 1000);
}

localTimes(document);
awaitFigures();
if (document.querySelector('main[data-live]')) setInterval(refresh, 10000);
if (new URLSearchParams(location.search).has('done')) {
  const address = new URL(location.href);
  address.searchParams.delete('done');
  history.replaceState(null, '', address);
}
