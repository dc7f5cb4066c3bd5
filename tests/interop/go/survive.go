// SPDX-License-Identifier: Apache-2.0
// What has to outlive somebody: delayed messages their broker (held), the work of an orderly consumer the consumer itself (orderly).
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// held says that it is ready, sends to delay levels when a byte comes, says so, and waits for what comes, while somebody stops and kills
// the broker.
func held(topic string, delays ...int64) {
	var got seen
	came := map[string]int64{}
	c, err := rocketmq.NewPushConsumer(consumer.WithGroupName("CG_"+topic), consumer.WithNameServer([]string{namesrv}), consumer.WithInstance("c"+topic),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err == nil {
		err = c.Subscribe(topic, consumer.MessageSelector{}, func(ctx context.Context, msgs ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			for _, m := range msgs {
				got.Lock()
				if _, there := came[string(m.Body)]; !there {
					came[string(m.Body)] = m.StoreTimestamp
					got.list = append(got.list, string(m.Body))
				}
				got.Unlock()
			}
			return consumer.ConsumeSuccess, nil
		})
	}
	if err == nil {
		err = c.Start()
	}
	check(err == nil, "a consumer of what is held starts", err)
	p, due := producerOf("PG_"+topic), map[string]int64{}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	for level, delay := range delays {
		for i := 0; i < 10; i++ {
			body := "level" + strconv.Itoa(level+1) + "-" + strconv.Itoa(i)
			due[body] = time.Now().UnixMilli() + delay
			m := primitive.NewMessage(topic, []byte(body))
			m.WithDelayTimeLevel(level + 1)
			_, err := p.SendSync(context.Background(), m)
			check(err == nil, "send of "+body, err)
		}
	}
	fmt.Println("sent")
	await(150*time.Second, func() bool { return got.len() >= len(due) })
	got.Lock()
	lost, early := []string{}, []string{}
	for body, when := range due {
		if at, there := came[body]; !there {
			lost = append(lost, body)
		} else if at < when-1 {
			early = append(early, body)
		}
	}
	got.Unlock()
	check(len(lost) == 0 && len(early) == 0, "all that was delayed came, none before its time", fmt.Sprint(lost, early))
	if failed {
		os.Exit(1)
	}
	os.Exit(0)
}

// orderly says what it works on, slowly, until it is killed.
func orderly(topic, group string) {
	c, err := rocketmq.NewPushConsumer(consumer.WithGroupName(group), consumer.WithNameServer([]string{namesrv}), consumer.WithInstance("c"+strconv.Itoa(os.Getpid())),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithConsumerOrder(true))
	if err == nil {
		err = c.Subscribe(topic, consumer.MessageSelector{}, func(ctx context.Context, msgs ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			for _, m := range msgs {
				fmt.Println("got", m.Queue.QueueId, m.QueueOffset, string(m.Body), time.Now().UnixMilli())
				time.Sleep(20 * time.Millisecond)
			}
			return consumer.ConsumeSuccess, nil
		})
	}
	if err == nil {
		err = c.Start()
	}
	check(err == nil, "an orderly consumer starts", err)
	fmt.Println("started")
	time.Sleep(300 * time.Second)
}
