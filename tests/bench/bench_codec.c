/* SPDX-License-Identifier: Apache-2.0 */
/* bench_codec.c - what one message costs in sdk/lib: nanoseconds for each call, best of several rounds, one core.
 * Build with optimisation (cmake --preset release -DZARYA_TESTS=ON, target bench_codec) and run it alone on the machine. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "zl/codec.h"
#include "zl/json.h"
#include "zl/record.h"
#include "zl/text.h"

#define ROUNDS 51
#define CALLS 20000

static const char send_header[] =
    "{\"code\":310,\"extFields\":{\"a\":\"PG5\",\"b\":\"T5new\",\"c\":\"TBW102\",\"d\":\"4\",\"e\":\"1\",\"f\":\"0\",\"g\":\"1795232738695\","
    "\"h\":\"0\",\"i\":\"KEYS\\u0001key0\\u0002UNIQ_KEY\\u0001FD00000000000000000000000000000252BA30946E0967CDC5870000\\u0002WAIT"
    "\\u0001true\\u0002TAGS\\u0001TagA\\u0002\",\"j\":\"0\",\"k\":\"false\",\"m\":\"false\",\"n\":\"broker-a\"},\"flag\":0,"
    "\"language\":\"JAVA\",\"opaque\":5,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}";
static const char pull_header[] =
    "{\"code\":11,\"extFields\":{\"queueId\":\"0\",\"maxMsgBytes\":\"262144\",\"maxMsgNums\":\"32\",\"sysFlag\":\"2\",\"suspendTimeoutMillis\":"
    "\"15000\",\"commitOffset\":\"0\",\"bname\":\"broker-a\",\"topic\":\"T5new\",\"queueOffset\":\"0\",\"expressionType\":\"TAG\",\"subVersion\":"
    "\"1795232841467\",\"consumerGroup\":\"CG5\"},\"flag\":0,\"language\":\"JAVA\",\"opaque\":31,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}";
static const char heartbeat[] =
    "{\"clientID\":\"192.0.2.2@21894#2287234586678\",\"consumerDataSet\":[{\"consumeFromWhere\":\"CONSUME_FROM_FIRST_OFFSET\",\"consumeType\":"
    "\"CONSUME_PASSIVELY\",\"groupName\":\"CG5\",\"messageModel\":\"CLUSTERING\",\"subscriptionDataSet\":[{\"classFilterMode\":false,\"codeSet\":[],"
    "\"expressionType\":\"TAG\",\"subString\":\"*\",\"subVersion\":1795232841449,\"tagsSet\":[],\"topic\":\"T5new\"},{\"classFilterMode\":false,"
    "\"codeSet\":[],\"expressionType\":\"TAG\",\"subString\":\"*\",\"subVersion\":1795232841467,\"tagsSet\":[],\"topic\":\"%RETRY%CG5\"}],"
    "\"unitMode\":false}],\"heartbeatFingerprint\":0,\"producerDataSet\":[{\"groupName\":\"CLIENT_INNER_PRODUCER\"}],\"withoutSub\":false}";

static uint8_t send_frame[1024], pull_frame[1024], binary_frame[1024];
static struct zl_header decoded;
static struct zr_command send_command, answer_command;
static struct zl_fields answer_fields;
static struct zl_buf out;
static struct zr_msg msg;
static uint8_t record[4096];
static uint64_t sum; /* keeps results alive */

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts); /* so that a busy machine does not show */
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static uint64_t frame_make(uint8_t *to, const char *header)
{
    uint64_t len = strlen(header);
    zl_store32(to, (uint32_t)(4 + len));
    zl_store32(to + 4, (uint32_t)len);
    memcpy(to + 8, header, len);
    return 8 + len;
}

static void decode(const uint8_t *frame)
{
    static char scratch[1024];
    const char *why;
    struct zr_span span = { frame, (uint64_t)zl_load32(frame) + 4 };
    if (zl_header_decode(span, &decoded, scratch, sizeof(scratch), &why) == ZR_OK) sum += decoded.n_fields;
}

static void decode_send(void) { decode(send_frame); }
static void decode_pull(void) { decode(pull_frame); }
static void decode_binary(void) { decode(binary_frame); }

static void encode(const struct zr_command *c, uint32_t type, int32_t flag)
{
    zl_buf_clear(&out);
    zl_command_encode(&out, c, type, flag, 12345, 0);
    sum += out.len;
}

static void encode_send(void) { encode(&send_command, ZL_TYPE_JSON, 0); }
static void encode_binary(void) { encode(&send_command, ZL_TYPE_BINARY, 0); }

/* As the broker answers a send: its fields made, then written. */
static void encode_answer(void)
{
    struct zl_fields *fs = &answer_fields;
    fs->n = fs->used = 0;
    zl_fields_i64(fs, "queueId", 1);
    zl_fields_str(fs, "transactionId", (struct zr_str)ZR_STR("FD00000000000000000000000000000252BA30946E0967CDC5870000"));
    zl_fields_str(fs, "msgId", (struct zr_str)ZR_STR("7F000001000049DF0000000000000000"));
    zl_fields_bool(fs, "TRACE_ON", 1);
    zl_fields_str(fs, "MSG_REGION", (struct zr_str)ZR_STR("DefaultRegion"));
    zl_fields_i64(fs, "queueOffset", 1234567);
    answer_command.fields = fs->f;
    answer_command.n_fields = fs->n;
    encode(&answer_command, ZL_TYPE_JSON, ZL_FLAG_RESPONSE);
}

static void record_write(void)
{
    sum += zl_record_size(&msg);
    zl_record_encode(record, &msg);
    zl_record_finish(record, 1, 2, 3);
}

static void record_read(void)
{
    struct zl_record r;
    const char *why;
    zl_record_parse((struct zr_span){ record, sizeof(record) }, 1, &r, &why);
    sum += r.size;
}

static void property_get(void) { sum += zl_props_get(msg.properties, "TAGS").len; }

static void heartbeat_read(void)
{
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at;
    if (zl_json_parse((struct zr_str){ heartbeat, sizeof(heartbeat) - 1 }, &doc, &root, &at) != ZR_OK) return;
    sum += root->n;
    zl_json_free(doc);
}

static void measure(const char *name, void (*call)(void))
{
    int64_t best = INT64_MAX;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t begin = now_ns();
        for (int i = 0; i < CALLS; i++) call();
        int64_t took = now_ns() - begin;
        if (took < best) best = took;
    }
    printf("%-34s %7.1f ns\n", name, (double)best / CALLS);
}

int main(void)
{
    static char scratch[1024];
    static struct zl_header sent;
    static uint8_t body[1024];
    const char *why;
    uint64_t len = frame_make(send_frame, send_header);
    frame_make(pull_frame, pull_header);
    zl_buf_init(&out, 1u << 16);
    zl_header_decode((struct zr_span){ send_frame, len }, &sent, scratch, sizeof(scratch), &why);
    send_command = (struct zr_command){ .hdr = ZR_HDR(struct zr_command, 0), .code = 310, .fields = sent.fields, .n_fields = sent.n_fields };
    answer_command = (struct zr_command){ .hdr = ZR_HDR(struct zr_command, 0) };
    zl_command_encode(&out, &send_command, ZL_TYPE_BINARY, 0, 5, 0);
    memcpy(binary_frame, out.ptr, out.len);
    struct zr_str props = zl_field(sent.fields, sent.n_fields, "i");
    msg = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = ZR_STR("T5new"), .body = { body, sizeof(body) },
                           .properties = { (const uint8_t *)props.ptr, props.len } };
    zl_addr_parse((struct zr_str)ZR_STR("10.0.0.1:52114"), &msg.born_host);
    msg.store_host = msg.born_host;

    measure("decode send 310, JSON, 388 bytes", decode_send);
    measure("decode pull 11, JSON, 357 bytes", decode_pull);
    measure("decode send 310, binary", decode_binary);
    measure("encode send 310, JSON", encode_send);
    measure("encode send 310, binary", encode_binary);
    measure("encode answer of a send, JSON", encode_answer);
    measure("write a record, body of 1 KiB", record_write);
    measure("read it with its checksum", record_read);
    measure("find TAGS in its properties", property_get);
    measure("read a heartbeat of 609 bytes", heartbeat_read);
    return sum == 0;
}
