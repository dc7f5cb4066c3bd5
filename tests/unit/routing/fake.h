/* SPDX-License-Identifier: Apache-2.0 */
/* fake.h - a host for the routing plugins: a clock that the test moves, timers that run when it does, documents in memory, a broker of
 * a few topics, and a wire whose other end is the test. One instance for each process; single-threaded but for what the test starts. */
#ifndef FAKE_H
#define FAKE_H
#include "zarya/zarya.h"
#include "zl/text.h"

#define FAKE_TEXT 65536

struct fake_answer { /* of the last request */
    uint32_t n;      /* answers given since fake_reset_answer */
    int32_t code;
    char remark[1024];
    char ext[4096];  /* "k=v\n" sorted as sent; "none" when there was no ext at all */
    char *body;      /* NUL-ended copy */
    uint64_t body_len;
};
struct fake_call { /* a request that the plugin sent */
    int32_t code;
    uint32_t open; /* not answered yet */
    uint32_t tell; /* expects nothing */
    char url[256];
    char ext[4096];
    char *body;
    uint64_t body_len, frame_len;
    int64_t timeout_ns;
    void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text);
    void *ctx;
};
struct fake_topic { char name[128]; int32_t read, write, perm, flag; uint32_t order, multi_tag; const struct zr_field *attributes; uint32_t n_attributes; };
struct fake_doc { char name[256]; char *text; uint64_t len; uint32_t writes; };

extern struct zr_host fake_host;
extern struct fake_answer fake_last;
extern int64_t fake_now_ns;
extern uint32_t fake_work_queued; /* 1: jobs wait for fake_run_jobs; 0: they run at once */
extern uint32_t fake_write_fails; /* documents cannot be written; 2: because the disk is full */
extern struct fake_call fake_calls[64];
extern uint32_t fake_n_calls;
extern struct fake_topic *fake_topics;
extern uint32_t fake_n_topics;
extern struct zr_data_version fake_version;
extern struct zr_identity fake_identity;
extern uint32_t fake_puts; /* put_topic calls */
extern char fake_raised[512];
extern uint32_t fake_with_broker;

struct fake_session { uint32_t refs, open, closes; };

void fake_init(void); /* everything as new */
void fake_end(void);
void fake_advance_ms(int64_t ms); /* moves the clock, runs what is due in order */
uint32_t fake_timers(void);       /* armed */
void fake_run_jobs(void);
struct fake_doc *fake_doc(const char *name); /* NULL: none */
void fake_doc_put(const char *name, const char *text);
int64_t fake_metric(const char *name);
/* Answers call i. ext "k=v\nk=v\n". */
void fake_call_answer(uint32_t i, int32_t code, const char *ext, const char *body);
void fake_call_fail(uint32_t i, zr_status status);
void fake_calls_forget(void); /* all must be answered */

/* Makes an instance from the settings that the rows' defaults give, changed by "option=value" lines. */
struct zr_inst *fake_make(const struct zr_plugin *plugin, const char *options);
void fake_unmake(const struct zr_plugin *plugin, struct zr_inst *inst);
/* Sends a request to the handler of its code; the answer is in fake_last. fields "k=v\n"; body_len -1: body is text. */
void fake_request(struct zr_inst *inst, const struct zr_requests_v1 *requests, int32_t code, int32_t version, const char *fields, const void *body,
                  int64_t body_len, struct fake_session *session);
#endif
