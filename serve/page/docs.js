// The description of the API at /docs, made from openapi.json.
const make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
function typeOf(schema) {
  if (schema.anyOf) return schema.anyOf.map(typeOf).filter(type => type !== "null").join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  const range = [["≥", schema.minimum], ["≤", schema.maximum]].filter(([, limit]) => limit !== undefined);
  return [schema.type, ...range.map(pair => pair.join(" "))].join(" ");
}
function parameters(list) {
  const table = document.createElement("table");
  for (const item of list) {
    const row = table.insertRow();
    row.append(make("th", item.name + (item.required ? " (required)" : "")), make("td", typeOf(item.schema)),
      make("td", item.schema.default === undefined ? "" : "default " + item.schema.default), make("td", item.description || ""));
  }
  return table;
}
function example(method, path, operation) {
  const query = (operation.parameters || []).filter(item => item.in === "query" && item.required)
    .map(item => `${item.name}=${(item.schema.examples || item.examples || ["..."])[0]}`).join("&");
  const url = new URL("." + path + (query ? "?" + query : ""), location.href);
  const body = operation.requestBody ? ' --data-binary @photo.jpg -H "Content-Type: image/jpeg"' : "";
  const image = operation.responses["200"]?.content?.["image/jpeg"] ? " -o result.jpg" : "";
  return make("pre", `curl${body} "${url}"${image}`);
}
fetch("openapi.json").then(answer => answer.json()).then(api => {
  document.getElementById("about").textContent = api.info.description;
  for (const [path, methods] of Object.entries(api.paths)) for (const [method, operation] of Object.entries(methods)) {
    const section = document.createElement("section");
    section.append(make("h2", `${method.toUpperCase()} ${path}`), make("p", operation.description || ""));
    if (operation.parameters) section.append(parameters(operation.parameters));
    if (operation.requestBody) section.append(make("p", "Body: " + Object.keys(operation.requestBody.content).join(", ")));
    const types = Object.keys(operation.responses["200"]?.content || {});
    if (types.length) section.append(make("p", "Answer: " + types.join(", ")));
    section.append(example(method, path, operation));
    document.getElementById("routes").append(section);
  }
});
