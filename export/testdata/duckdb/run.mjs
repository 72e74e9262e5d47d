// Runs the SQL statements of standard input in one DuckDB, separated by lines of
// "---", and prints the rows of each that has any as one line of JSON.
import { DuckDBInstance } from "@duckdb/node-api";
import { readFileSync } from "node:fs";

const connection = await (await DuckDBInstance.create(":memory:")).connect();
for (const statement of readFileSync(0, "utf8").split(/^---$/m)) {
  if (statement.trim() === "") continue;
  const reader = await connection.runAndReadAll(statement);
  const rows = reader.getRowObjectsJson();
  if (reader.columnCount > 0) console.log(JSON.stringify(rows));
}
