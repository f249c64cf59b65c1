//! What this login may do, as the brokers say: the operations on topics, groups and the cluster that are allowed, without
//! trying any of them; and the id that a topic keeps until it is deleted. The client library offers both in C alone, so this
//! file speaks C.
//!
//! What always holds: nothing is changed; every pointer that is made here is freed here; texts are copied out before their
//! owner goes; numbers that the library may learn later are numbers here, never a Rust enum.
#![allow(unsafe_code, reason = "the calls of librdkafka that its Rust wrapper lacks; see the header")]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::consumer::Consumer;

use super::KafkaLog;

/// How often a group is asked for while nobody is in charge of it.
const TRIES: u32 = 20;

/// Pause between two such questions.
const TRY_PAUSE: Duration = Duration::from_millis(500);

/// Room for the library's words, bytes.
const WORDS_BYTES: usize = 256;
/// What a request may take beyond its own time-out, for the client's thread.
const MARGIN: Duration = Duration::from_secs(2);

/// Operations of Kafka's access control that matter here, as the wire numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Fetch records; join a group and commit its offsets.
    Read,
    /// Append records.
    Write,
    /// Make topics.
    Create,
    /// Ask for metadata and offsets.
    Describe,
    /// Read settings.
    DescribeConfigs,
}

impl Operation {
    /// Name as in `kafka-acls.sh`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Create => "Create",
            Self::Describe => "Describe",
            Self::DescribeConfigs => "DescribeConfigs",
        }
    }

    fn of(number: i32) -> Option<Self> {
        Some(match number {
            3 => Self::Read,
            4 => Self::Write,
            5 => Self::Create,
            8 => Self::Describe,
            10 => Self::DescribeConfigs,
            _ => return None,
        })
    }
}

/// The id of a topic that has none: the brokers are older than ids.
const NO_ID: (i64, i64) = (0, 0);

/// Allowed operations.
pub type Rights = Result<BTreeSet<Operation>, NoRights>;

/// Why rights are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRights {
    /// It is not there, which may be seen: rights on it are told when it is.
    NotThere,
    /// Nobody is in charge of it at the moment.
    NotNow(String),
    /// Refused, or no answer; in the brokers' words.
    Words(String),
}

impl From<&str> for NoRights {
    fn from(words: &str) -> Self {
        Self::Words(words.to_owned())
    }
}

impl KafkaLog {
    /// Rights on a topic. A topic that is not there, or may not be seen, is an error.
    pub fn topic_rights(&self, topic: &str) -> Rights {
        self.describe_topic(topic, true, self.shared.config.times.reach, |one| {
            let mut count = 0;
            // SAFETY: the description is alive through the call; the count says how many numbers there are.
            unsafe {
                let allowed = c::rd_kafka_TopicDescription_authorized_operations(one, &mut count);
                operations(allowed, count)
            }
        })
    }

    /// The id of a topic as the brokers show it, in base64; `None` where they give none. The error is in words.
    pub(super) fn describe_topic_id(&self, topic: &str, wait: Duration) -> Result<Option<String>, String> {
        let described = self.describe_topic(topic, false, wait, |one| {
            // SAFETY: the id belongs to the description, which is alive through the call; its text is copied.
            unsafe {
                let id = c::rd_kafka_TopicDescription_topic_id(one);
                let bits = |id| (c::rd_kafka_Uuid_most_significant_bits(id), c::rd_kafka_Uuid_least_significant_bits(id));
                (!id.is_null() && bits(id) != NO_ID).then(|| text(c::rd_kafka_Uuid_base64str(id)))
            }
        });
        described.map_err(|refused| match refused {
            NoRights::NotThere => "no such topic".to_owned(),
            NoRights::NotNow(words) | NoRights::Words(words) => words,
        })
    }

    /// Asks for one topic's description.
    fn describe_topic<T>(
        &self,
        topic: &str,
        rights: bool,
        wait: Duration,
        read: impl FnOnce(*const c::rd_kafka_TopicDescription_t) -> T,
    ) -> Result<T, NoRights> {
        let name = CString::new(topic).map_err(|_| NoRights::from("a zero byte in the name"))?;
        self.describe(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            rights,
            wait,
            |rk, options, queue| {
                let mut names: [*const c_char; 1] = [name.as_ptr()];
                // SAFETY: the array and its text live through the call, which copies them; the collection is freed at once.
                unsafe {
                    let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
                    c::rd_kafka_DescribeTopics(rk, topics, options, queue);
                    c::rd_kafka_TopicCollection_destroy(topics);
                }
            },
            |event| {
                let mut count = 0;
                // SAFETY: the event is of this kind and outlives the closure; the count says how many pointers there are.
                unsafe {
                    let all =
                        c::rd_kafka_DescribeTopics_result_topics(c::rd_kafka_event_DescribeTopics_result(event), &mut count);
                    if count == 0 {
                        return Err("no answer for the topic".into());
                    }
                    let one = *all;
                    error(c::rd_kafka_TopicDescription_error(one))?;
                    Ok(read(one))
                }
            },
        )
    }

    /// Rights on a group, which need not exist. Asked again while nobody is in charge of it: a fresh cluster takes a moment.
    pub fn group_rights(&self, group: &str) -> Rights {
        for _ in 1..TRIES {
            match self.group_rights_now(group) {
                Err(NoRights::NotNow(_)) => std::thread::sleep(TRY_PAUSE),
                rights => return rights,
            }
        }
        self.group_rights_now(group)
    }

    fn group_rights_now(&self, group: &str) -> Rights {
        let name = CString::new(group).map_err(|_| NoRights::from("a zero byte in the name"))?;
        self.describe(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
            true,
            self.shared.config.times.reach,
            |rk, options, queue| {
                let mut names: [*const c_char; 1] = [name.as_ptr()];
                // SAFETY: the array and its text live through the call, which copies them.
                unsafe { c::rd_kafka_DescribeConsumerGroups(rk, names.as_mut_ptr(), names.len(), options, queue) }
            },
            |event| {
                let mut count = 0;
                // SAFETY: as for topics.
                unsafe {
                    let result = c::rd_kafka_event_DescribeConsumerGroups_result(event);
                    let all = c::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
                    if count == 0 {
                        return Err("no answer for the group".into());
                    }
                    let one = *all;
                    error(c::rd_kafka_ConsumerGroupDescription_error(one))?;
                    let allowed = c::rd_kafka_ConsumerGroupDescription_authorized_operations(one, &mut count);
                    Ok(operations(allowed, count))
                }
            },
        )
    }

    /// Rights on the cluster itself.
    pub fn cluster_rights(&self) -> Rights {
        self.describe(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER,
            true,
            self.shared.config.times.reach,
            |rk, options, queue| {
                // SAFETY: all three are alive through the call.
                unsafe { c::rd_kafka_DescribeCluster(rk, options, queue) }
            },
            |event| {
                let mut count = 0;
                // SAFETY: as for topics.
                unsafe {
                    let result = c::rd_kafka_event_DescribeCluster_result(event);
                    let allowed = c::rd_kafka_DescribeCluster_result_authorized_operations(result, &mut count);
                    Ok(operations(allowed, count))
                }
            },
        )
    }

    /// One question: asked on a queue of its own, answered by one event.
    fn describe<T>(
        &self,
        kind: c::rd_kafka_admin_op_t,
        rights: bool,
        longest: Duration,
        ask: impl FnOnce(*mut c::rd_kafka_t, *const c::rd_kafka_AdminOptions_t, *mut c::rd_kafka_queue_t),
        read: impl FnOnce(*mut c::rd_kafka_event_t) -> Result<T, NoRights>,
    ) -> Result<T, NoRights> {
        let tools = self.shared.tools.get();
        let wait = |d: Duration| i32::try_from(d.as_millis()).unwrap_or(i32::MAX);
        let rk = tools.client().native_ptr();
        let mut words: [c_char; WORDS_BYTES] = [0; WORDS_BYTES];
        // SAFETY: the client outlives the call (`tools` holds it); options, queue and event are made and freed here, the
        // event after everything that was read from it was copied.
        unsafe {
            let options = c::rd_kafka_AdminOptions_new(rk, kind);
            c::rd_kafka_AdminOptions_set_request_timeout(options, wait(longest), words.as_mut_ptr(), words.len());
            if rights {
                c::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
            }
            let queue = c::rd_kafka_queue_new(rk);
            ask(rk, options, queue);
            // The request ends by its own time-out.
            let event = c::rd_kafka_queue_poll(queue, wait(longest + MARGIN));
            let answer = if event.is_null() {
                Err("no answer in time".into())
            } else if c::rd_kafka_event_error(event) != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                Err(NoRights::Words(text(c::rd_kafka_event_error_string(event))))
            } else {
                read(event)
            };
            if !event.is_null() {
                c::rd_kafka_event_destroy(event);
            }
            c::rd_kafka_queue_destroy(queue);
            c::rd_kafka_AdminOptions_destroy(options);
            answer
        }
    }
}

/// # Safety
/// `first` points to `count` numbers, or `count` is 0.
unsafe fn operations(first: *const c::rd_kafka_AclOperation_t, count: usize) -> BTreeSet<Operation> {
    let first = first.cast::<i32>();
    // SAFETY: the caller's promise; the C enum is an int.
    (0..count).filter_map(|i| Operation::of(unsafe { *first.add(i) })).collect()
}

/// # Safety
/// `error` is null or an error of the library.
unsafe fn error(error: *const c::rd_kafka_error_t) -> Result<(), NoRights> {
    // SAFETY: the caller's promise.
    unsafe {
        let code =
            if error.is_null() { c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR } else { c::rd_kafka_error_code(error) };
        match code {
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND => Err(NoRights::NotThere),
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NOT_COORDINATOR
            | c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE
            | c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS => {
                Err(NoRights::NotNow(text(c::rd_kafka_err2str(code))))
            }
            code => Err(NoRights::Words(text(c::rd_kafka_err2str(code)))),
        }
    }
}

/// # Safety
/// `text` is null or a C text.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return "no reason given".to_owned();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
