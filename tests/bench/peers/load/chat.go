// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const text = "The quick brown fox jumps over the lazy dog."

const answer = `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"gpt-4o","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"` + text + `"},"finish_reason":"stop"}],` +
	`"usage":{"prompt_tokens":30,"completion_tokens":10,"total_tokens":40}}`

const event = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o",` +
	`"choices":[{"index":0,"delta":{%s},"finish_reason":%s}]}` + "\n\n"

const usageEvent = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o",` +
	`"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":10,"total_tokens":40}}` + "\n\n"

const done = "data: [DONE]\n\n"

var maxTokens = regexp.MustCompile(`"max_tokens": ?(\d+)`)

func upstream(args []string) any {
	set := flag.NewFlagSet("upstream", flag.ExitOnError)
	pace := set.Duration("pace", 4*time.Millisecond, "between the chunks of a stream, which has max_tokens words; 0: at once")
	address := set.String("address", "127.0.0.1:0", "to serve on")
	check(set.Parse(args))
	// No two alike in a row: LiteLLM ends a stream that repeats itself as an error.
	words := [][]byte{}
	for _, word := range strings.Fields(text) {
		words = append(words, fmt.Appendf(nil, event, fmt.Sprintf(`"content":" %s"`, word), "null"))
	}
	last := fmt.Appendf(nil, event, "", `"stop"`)
	var spans atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		switch r.URL.Path {
		case "/v1/traces": // as a collector takes them
			spans.Add(int64(bytes.Count(body, []byte("gen_ai.operation.name")))) // once for each attempt
			return
		case "/spans":
			fmt.Fprint(w, spans.Load())
			return
		}
		h := w.Header()
		for _, kind := range []string{"requests", "tokens"} {
			h["x-ratelimit-limit-"+kind] = []string{"1000000000"}
			h["x-ratelimit-remaining-"+kind] = []string{"999999000"}
			h["x-ratelimit-reset-"+kind] = []string{"1ms"}
		}
		if !bytes.Contains(body, []byte(`"stream":true`)) && !bytes.Contains(body, []byte(`"stream": true`)) {
			h.Set("content-type", "application/json")
			io.WriteString(w, answer)
			return
		}
		h.Set("content-type", "text/event-stream")
		flush := http.NewResponseController(w)
		ticks := time.NewTicker(max(*pace, 1))
		defer ticks.Stop()
		count := 0
		if said := maxTokens.FindSubmatch(body); said != nil {
			count, _ = strconv.Atoi(string(said[1]))
		}
		for n := range count {
			if *pace > 0 {
				<-ticks.C
			}
			w.Write(words[n%len(words)])
			if flush.Flush() != nil {
				return
			}
		}
		w.Write(last)
		if bytes.Contains(body, []byte("include_usage")) {
			io.WriteString(w, usageEvent)
		}
		io.WriteString(w, done)
	})}
	listener, err := net.Listen("tcp", *address)
	check(err)
	print(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port})
	return server.Serve(listener)
}

type chatted struct {
	Done    int     `json:"done"`
	Chunks  int     `json:"chunks"`
	Seconds float64 `json:"seconds"`
	Latency spread  `json:"latency_us"`
	First   spread  `json:"first_us"`
}

func chat(args []string) any {
	set := flag.NewFlagSet("http", flag.ExitOnError)
	url := set.String("url", "", "of the chat completions")
	connections := set.Int("connections", 1, "calls under way")
	seconds := set.Float64("seconds", 3, "how long")
	calls := set.Int("calls", 0, "how many calls, rather than how long")
	streamed := set.Bool("stream", false, "ask for streams")
	model := set.String("model", "gpt-4o", "model")
	tokens := set.Int("max-tokens", 100, "max_tokens of the request")
	traced := set.Bool("traced", false, "each call is of a trace of the app's, of which one in a hundred is sampled")
	check(set.Parse(args))
	prompt := strings.Repeat(text+" ", 8)
	request := fmt.Sprintf(`{"model":%q,"max_tokens":%d,"stream":%t,"messages":[{"role":"system","content":"You are terse."},`+
		`{"role":"user","content":%q}]}`, *model, *tokens, *streamed, prompt)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *connections, DisableCompression: true},
		Timeout: time.Minute}

	var all sync.WaitGroup
	var lock sync.Mutex
	var result chatted
	var latency, first [][]time.Duration
	begun := time.Now()
	end := begun.Add(time.Duration(*seconds * 1e9))
	var made atomic.Int64
	for n := range *connections {
		all.Add(1)
		go func() {
			defer all.Done()
			var took, began []time.Duration
			chunks := 0
			buffer := make([]byte, 1<<20) // of a whole answer
			for {
				now := time.Now()
				if *calls > 0 && made.Add(1) > int64(*calls) || *calls == 0 && !now.Before(end) {
					break
				}
				r, err := http.NewRequest("POST", *url, strings.NewReader(request))
				check(err)
				r.Header["Content-Type"] = []string{"application/json"}
				r.Header["Authorization"] = []string{"Bearer sk-made-up"}
				r.Header["x-sluicegate-tenant"] = []string{fmt.Sprintf("bench/t%d", n%16)}
				if *traced {
					r.Header["traceparent"] = []string{traceparent()}
				}
				response, err := client.Do(r)
				check(err)
				if response.StatusCode != 200 {
					body, _ := io.ReadAll(response.Body)
					log.Fatalf("%d %s", response.StatusCode, body)
				}
				got := 0
				for {
					if got == len(buffer) {
						log.Fatal("an answer of more than a MB")
					}
					size, err := response.Body.Read(buffer[got:])
					if got == 0 {
						began = append(began, time.Since(now))
					}
					got += size
					if err == io.EOF {
						break
					}
					check(err)
				}
				response.Body.Close()
				took = append(took, time.Since(now))
				if *streamed {
					chunks += whole(buffer[:got], *tokens)
				} else if !bytes.Contains(buffer[:got], []byte(text)) {
					log.Fatalf("not the answer: %s", buffer[:got])
				}
			}
			lock.Lock()
			defer lock.Unlock()
			result.Done += len(took)
			result.Chunks += chunks
			latency, first = append(latency, took), append(first, began)
		}()
	}
	all.Wait()
	result.Seconds = time.Since(begun).Seconds()
	result.Latency, result.First = spreadOf(latency...), spreadOf(first...)
	return result
}

// The chunks of a stream. Fails unless it came to its end with as many words as were asked for and no error.
func whole(stream []byte, words int) int {
	said := bytes.Count(stream, []byte(`"content":" `))
	if said != words || !bytes.HasSuffix(stream, []byte(done)) || bytes.Contains(stream, []byte(`"error"`)) {
		log.Fatalf("a stream of %d words of %d: ...%s", said, words, stream[max(0, len(stream)-1000):])
	}
	return bytes.Count(stream, []byte("data: {"))
}

// As W3C's trace context has it, of a trace of which one in a hundred is sampled.
func traceparent() string {
	sampled := 0
	if rand.IntN(100) == 0 {
		sampled = 1
	}
	return fmt.Sprintf("00-%016x%016x-%016x-%02x", rand.Uint64(), rand.Uint64(), rand.Uint64()|1, sampled)
}
