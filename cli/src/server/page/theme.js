// The light or dark that somebody chose, before anything is drawn. Without a choice the system's counts.

(() => {
  "use strict";
  let theme = null;
  try {
    theme = localStorage.getItem("gannet.theme");
  } catch {
    // Nothing is kept here: the system's choice counts.
  }
  if (theme === "light" || theme === "dark") {
    document.documentElement.dataset.theme = theme;
  }
})();
