// Package report computes the books: what every customer's credit is worth, now or at
// any moment of the past, what moved it, and what a closed period was.
//
// A database returns plain sums over its rows, from covering indexes. For a few
// customers plain sums are wrong: those who were deleted, whose history is
// incomplete, or who have grants that become effective later. They are read separately,
// row by row. Every report is the plain sums, minus those customers' part of them,
// plus what the rules yield for those customers. The rules are in judge.go, once.
package report
