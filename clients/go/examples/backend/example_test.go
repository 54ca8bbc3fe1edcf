package backend_test

import (
	"fmt"
	"log"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend"
)

// A host that was written against a cgo binding changes its import and nothing else.
func Example() {
	model, err := backend.Load("pico")
	if err != nil {
		log.Fatal(err)
	}
	defer model.Free()
	text, err := model.Generate("def add(a, b):\n    return", 3)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(text)
	// Output: a + b
}
