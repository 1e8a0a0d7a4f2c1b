// SPDX-License-Identifier: Apache-2.0

// Load for the benchmarks, in one process that is several times faster than what it measures. Each command runs for
// -seconds and prints one line of JSON.
//
//	load session    acquires and settles over Session streams of a broker
//	load ratelimit  ShouldRateLimit calls to envoyproxy/ratelimit
//	load http       chat completions, whole or streamed
//	load upstream   a provider that answers at once, or streams at a pace, and a collector of traces; serves until it is killed
//	load fleet      sidecars that stay connected, come back when cut off, and make calls at a rate
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"slices"
	"time"
)

func main() {
	log.SetFlags(0)
	commands := map[string]func([]string) any{
		"session":   session,
		"ratelimit": ratelimit,
		"http":      chat,
		"upstream":  upstream,
		"fleet":     fleet,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		log.Fatal("usage: load session|ratelimit|http|upstream|fleet [flags]")
	}
	print(commands[os.Args[1]](os.Args[2:]))
}

func print(result any) {
	line, err := json.Marshal(result)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Quantiles of durations, in microseconds.
type spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func spreadOf(all ...[]time.Duration) spread {
	times := slices.Concat(all...)
	if len(times) == 0 {
		return spread{}
	}
	slices.Sort(times)
	at := func(share float64) float64 {
		return float64(times[min(len(times)-1, int(share*float64(len(times))))].Nanoseconds()) / 1e3
	}
	return spread{at(0.5), at(0.99)}
}
