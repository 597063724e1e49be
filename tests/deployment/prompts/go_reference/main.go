// Renders templates with Go's own text/template: {"Template", "Data", "Messages"} on each line of standard input,
// {"output"} or {"error"} on each line of standard output. test_go_template.py runs it where Go is installed.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"text/template"
)

type message struct{ Role, Content string }

type job struct {
	Template string
	Data     map[string]any
	Messages []message
}

func render(j job) (string, error) {
	functions := template.FuncMap{"json": func(v any) string { b, _ := json.Marshal(v); return string(b) }}
	t, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(j.Template)
	if err != nil {
		return "", err
	}
	data := map[string]any{}
	for key, value := range j.Data {
		data[key] = value
	}
	if j.Messages != nil {
		pointers := []*message{}
		for i := range j.Messages {
			pointers = append(pointers, &j.Messages[i])
		}
		data["Messages"] = pointers
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.String(), err
}

func main() {
	scanner := bufio.NewScanner(os.Stdin)
	scanner.Buffer(nil, 1<<26)
	for scanner.Scan() {
		var j job
		if err := json.Unmarshal(scanner.Bytes(), &j); err != nil {
			panic(err)
		}
		answer := map[string]string{}
		if output, err := render(j); err != nil {
			answer["error"] = err.Error()
		} else {
			answer["output"] = output
		}
		line, _ := json.Marshal(answer)
		fmt.Println(string(line))
	}
}
