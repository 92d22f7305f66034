// /docs: Swagger UI over one of the two descriptions. `?dialect=old` shows that of the replaced backend.

const DESCRIPTIONS = { current: "/docs/openapi.json", old: "/docs/old-dialect.json" };

const dialect = new URLSearchParams(location.search).get("dialect") === "old" ? "old" : "current";

for (const link of document.querySelectorAll("nav a")) {
  if (link.getAttribute("href") === `${location.pathname}${dialect === "old" ? "?dialect=old" : ""}`) {
    link.setAttribute("aria-current", "page");
  }
}

if (window.SwaggerUIBundle) {
  document.querySelector("#description .note").remove();
  window.SwaggerUIBundle({
    url: DESCRIPTIONS[dialect],
    dom_id: "#description",
    deepLinking: true,
    defaultModelsExpandDepth: -1,
    defaultModelExpandDepth: 3,
    displayRequestDuration: true,
    supportedSubmitMethods: ["get"],
    tryItOutEnabled: true,
    // The badge would ask a server on the internet.
    validatorUrl: null,
  });
} else {
  const note = document.querySelector("#description .note");
  note.firstChild.textContent = "Swagger UI is not installed: run make install, which needs npm. Without it: the ";
}
