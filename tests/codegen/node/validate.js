// Validate documents, each with its schema, and print those that do not fit: [$defs, [[schema, document], ...]].

import { readFileSync } from "node:fs";
import Ajv from "ajv/dist/2020.js";

const [$defs, documents] = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ajv = new Ajv({ strict: false, validateFormats: false });
const validators = new Map();
const wrong = [];
for (const [schema, document] of documents) {
  const text = JSON.stringify(schema);
  if (!validators.has(text)) {
    validators.set(text, ajv.compile({ ...schema, $defs }));
  }
  const validate = validators.get(text);
  if (!validate(document)) {
    wrong.push([schema, document, validate.errors]);
  }
}
console.log(JSON.stringify(wrong));
