"""The tests; a package, so that files of one name in two folders stay apart."""
