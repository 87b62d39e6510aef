// Reads PromQL expressions, one a line, with the parser that Prometheus has, and says what is wrong with each.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	failed := false
	for lines.Scan() {
		if _, err := parser.ParseExpr(lines.Text()); err != nil {
			fmt.Printf("%s: %v\n", lines.Text(), err)
			failed = true
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Println(err)
		failed = true
	}
	if failed {
		os.Exit(1)
	}
}
