// Package export keeps a copy of the mirror where any engine can read it: Parquet,
// CSV or JSON Lines in a folder or a bucket, or tables of another PostgreSQL.
//
// A copy is a chain of generations. Each is a set of immutable files and one
// manifest, which is written last and only where it does not exist yet: that write
// is the commit. A reader that follows the manifests never sees half a generation.
// A full generation has every row; an incremental one has each row that changed
// since its parent once, in its latest state. Reading a generation twice does no
// harm: a row replaces the one with the same key.
//
// The rows of a generation are read in one snapshot of the mirror and spooled to
// the local disk first, so that a slow bucket holds no transaction open.
package export
