//! Made-up names, so that the model learns principles and not the families of one list: generated ones by the ways in which
//! generators work (alphabets, syllables, chains of letters, words), and benign ones that look like what the popular
//! lists lack (abbreviations, service names, initials and numbers). Every family has its own alphabet, lengths or
//! syllables, drawn at random.

use super::chance::Chance;

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const ALNUM: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const HEX: &[u8] = b"0123456789abcdef";
const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const VOWELS: &[u8] = b"aeiou";
const CONSONANTS: &[u8] = b"bcdfghjklmnpqrstvwxz";

/// Words of which names of services are made.
const SERVICE: &[&str] = &[
    "ad",
    "ads",
    "adserv",
    "adsrv",
    "adx",
    "akam",
    "amp",
    "analytics",
    "api",
    "app",
    "apps",
    "asset",
    "assets",
    "auth",
    "aws",
    "az",
    "beacon",
    "bid",
    "bidder",
    "biz",
    "blob",
    "bot",
    "box",
    "btn",
    "cache",
    "cas",
    "cdn",
    "cdns",
    "cfg",
    "chat",
    "click",
    "client",
    "cloud",
    "cms",
    "cnt",
    "cntr",
    "code",
    "collector",
    "conf",
    "config",
    "conn",
    "connect",
    "content",
    "core",
    "count",
    "crl",
    "cs",
    "css",
    "ctl",
    "data",
    "db",
    "dev",
    "dl",
    "dmp",
    "dns",
    "doc",
    "docs",
    "dsp",
    "dt",
    "dw",
    "edge",
    "eu",
    "ev",
    "event",
    "events",
    "exch",
    "ext",
    "fast",
    "fb",
    "feed",
    "file",
    "files",
    "font",
    "fonts",
    "front",
    "ftp",
    "fw",
    "game",
    "gap",
    "gate",
    "geo",
    "goog",
    "gp",
    "gps",
    "grid",
    "gs",
    "gtm",
    "gw",
    "host",
    "hub",
    "id",
    "img",
    "imgs",
    "info",
    "ingest",
    "io",
    "iot",
    "ip",
    "iq",
    "js",
    "kit",
    "lab",
    "labs",
    "lb",
    "link",
    "live",
    "load",
    "log",
    "logs",
    "mail",
    "map",
    "maps",
    "mc",
    "media",
    "meet",
    "metric",
    "metrics",
    "micro",
    "mkt",
    "mktg",
    "ml",
    "mob",
    "mobile",
    "ms",
    "mtrcs",
    "mx",
    "net",
    "ngx",
    "node",
    "notify",
    "ns",
    "ocsp",
    "ops",
    "opt",
    "optim",
    "pay",
    "pix",
    "pixel",
    "pki",
    "play",
    "plus",
    "pool",
    "portal",
    "prd",
    "prod",
    "proxy",
    "pub",
    "push",
    "px",
    "query",
    "rtb",
    "rum",
    "run",
    "s3",
    "safe",
    "sc",
    "scan",
    "sdk",
    "search",
    "sec",
    "secure",
    "seg",
    "sense",
    "serv",
    "server",
    "serving",
    "services",
    "sgn",
    "share",
    "shop",
    "sig",
    "site",
    "sms",
    "soft",
    "spot",
    "srv",
    "ssl",
    "ssp",
    "st",
    "stat",
    "static",
    "stats",
    "status",
    "stg",
    "storage",
    "store",
    "stream",
    "svc",
    "sync",
    "sys",
    "tag",
    "tags",
    "team",
    "tech",
    "telemetry",
    "test",
    "thumb",
    "tile",
    "time",
    "tls",
    "tm",
    "tool",
    "track",
    "tracker",
    "trc",
    "trk",
    "trust",
    "ts",
    "tv",
    "up",
    "update",
    "upd",
    "usr",
    "vid",
    "video",
    "vo",
    "voip",
    "vpn",
    "wave",
    "web",
    "widget",
    "win",
    "wp",
    "ws",
    "www",
    "xp",
    "yield",
    "zone",
];

/// Syllables of transcribed Chinese and Japanese: names of which look strange to a model of European ones.
const SYLLABLES: &[&str] = &[
    "ai", "an", "bai", "bao", "bei", "chang", "che", "cheng", "chi", "chu", "da", "dian", "dong", "du", "fang", "feng", "fu",
    "gao", "ge", "gong", "guang", "guo", "hai", "hang", "hao", "he", "hong", "hu", "hua", "huang", "hui", "huo", "ji", "jia",
    "jian", "jiao", "jie", "jin", "jing", "jiu", "ju", "kai", "ke", "kong", "kuai", "lai", "lan", "le", "li", "lian", "liang",
    "ling", "liu", "long", "lu", "ma", "mai", "mei", "ming", "mu", "nan", "ni", "nian", "ning", "niu", "pai", "ping", "qi",
    "qian", "qiang", "qing", "qiu", "qu", "quan", "ren", "ri", "rong", "ru", "san", "shan", "shang", "she", "shen", "sheng",
    "shi", "shou", "shu", "shui", "si", "song", "su", "tai", "tang", "tao", "tian", "tie", "tong", "tu", "wan", "wang", "wei",
    "wen", "wo", "wu", "xi", "xia", "xian", "xiang", "xiao", "xin", "xing", "xu", "xue", "ya", "yan", "yang", "yao", "ye", "yi",
    "yin", "ying", "yong", "you", "yu", "yuan", "yue", "yun", "zai", "zhan", "zhang", "zhao", "zhe", "zheng", "zhi", "zhong",
    "zhou", "zhu", "zi", "zong", "zu", "hara", "kawa", "mura", "naka", "saki", "shima", "suzu", "taka", "tomo", "yama", "yoshi",
];

/// Chains of letters learned from names: the next letter by the last one to three.
pub struct Chains {
    next: std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Chains {
    /// From names.
    pub fn learn(names: &[String]) -> Self {
        let mut next: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = std::collections::BTreeMap::new();
        for name in names.iter().filter(|n| n.bytes().all(|b| b.is_ascii_lowercase())) {
            let bytes = name.as_bytes();
            for at in 0..bytes.len() {
                for order in 1..=2_usize {
                    if at >= order {
                        let followers = next.entry(bytes[at - order..at].to_vec()).or_default();
                        if followers.len() < 2000 {
                            followers.push(bytes[at]);
                        }
                    }
                }
            }
        }
        Self { next }
    }

    fn name(&self, order: usize, len: usize, chance: &mut Chance) -> String {
        let mut name = vec![*chance.of_list(LETTERS)];
        while name.len() < len {
            let context = &name[name.len().saturating_sub(order)..];
            let followers = self.next.get(context).or_else(|| self.next.get(&context[context.len() - 1..]));
            name.push(followers.map_or_else(|| b'a', |f| *chance.of_list(f)));
        }
        text(name)
    }
}

fn text(bytes: Vec<u8>) -> String {
    bytes.into_iter().map(char::from).collect()
}

fn some(alphabet: &[u8], len: usize, chance: &mut Chance) -> String {
    text((0..len).map(|_| *chance.of_list(alphabet)).collect())
}

fn part_of(alphabet: &[u8], size: usize, chance: &mut Chance) -> Vec<u8> {
    let mut letters = alphabet.to_vec();
    chance.shuffle(&mut letters);
    letters.truncate(size);
    letters
}

/// Ways to make names up.
pub const WAYS: usize = 16;

/// Ways that join words.
pub const WORD_WAYS: std::ops::Range<usize> = 13..16;

/// Names of one made-up family.
pub fn family(way: usize, count: usize, words: &[String], chains: &Chains, chance: &mut Chance) -> Vec<String> {
    let low = chance.within(6, 16);
    let high = low + chance.within(0, 10);
    let letters = part_of(LETTERS, chance.within(5, 16), chance);
    let (some_consonants, some_vowels) =
        (part_of(CONSONANTS, chance.within(6, 20), chance), part_of(VOWELS, chance.within(2, 5), chance));
    let syllables: Vec<String> = (0..chance.within(12, 60))
        .map(|_| {
            let (c, v, n) = (some(CONSONANTS, 1, chance), some(VOWELS, 1, chance), some(LETTERS, chance.within(0, 2), chance));
            if chance.chance(0.7) { format!("{c}{v}{n}") } else { format!("{v}{c}{n}") }
        })
        .collect();
    let start = chance.below(words.len().saturating_sub(3000).max(1));
    let list: Vec<&String> = (0..chance.within(40, 800)).map(|_| &words[(start + chance.below(3000)) % words.len()]).collect();
    let fixed = format!("{}{}", chance.of_list(words), chance.of_list(words));
    let digits_share = chance.unit() * 0.5;
    let order = chance.within(1, 2);
    let hyphen = chance.chance(0.15);
    (0..count)
        .map(|_| {
            let len = chance.within(low, high);
            match way {
                0 => some(LETTERS, len, chance),
                1 => some(ALNUM, len + 2, chance),
                2 => some(HEX, len + 2, chance),
                3 => some(BASE32, len + 4, chance),
                4 => some(&letters, len + 2, chance),
                5 => some(CONSONANTS, len, chance),
                // Consonant and vowel in turn, now and then one more.
                6 => {
                    let mut name = String::new();
                    while name.len() < len {
                        name += &some(&some_consonants, 1, chance);
                        name += &some(&some_vowels, 1, chance);
                        if chance.chance(0.2) {
                            name += &some(&some_consonants, 1, chance);
                        }
                    }
                    name.truncate(len);
                    name
                }
                7 => (0..chance.within(3, 5)).map(|_| chance.of_list(&syllables).as_str()).collect(),
                8 => chains.name(order, len, chance),
                9 => {
                    let mut one = || some(if chance.chance(digits_share) { b"0123456789" } else { LETTERS }, 1, chance);
                    (0..len).map(|_| one()).collect()
                }
                10 => some(LETTERS, chance.within(16, 34), chance),
                11 => some(LETTERS, chance.within(5, 8), chance),
                // A random beginning before something fixed.
                12 => format!("{}{fixed}", some(LETTERS, 4, chance)),
                13 | 14 => {
                    let count = if way == 13 { 2 } else { chance.within(3, 4) };
                    let joined: Vec<&str> = (0..count).map(|_| chance.of_list(&list).as_str()).collect();
                    joined.join(if hyphen { "-" } else { "" })
                }
                _ => format!("{}{}{}", chance.of_list(&list), chance.of_list(&list), some(LETTERS, chance.within(2, 3), chance)),
            }
        })
        .filter(|name| name.len() <= 63)
        .collect()
}

/// Benign names of the kinds that lists of popular sites lack.
pub fn ordinary(count: usize, words: &[String], known: &[String], chance: &mut Chance) -> Vec<String> {
    let word = |chance: &mut Chance| chance.of_list(&words[..words.len().min(8000)]).clone();
    let service = |chance: &mut Chance| (*chance.of_list(SERVICE)).to_owned();
    let squeezed = |chance: &mut Chance| {
        let full = word(chance);
        let mut out: String = full.chars().take(1).collect();
        out.extend(full.chars().skip(1).filter(|c| !"aeiou".contains(*c)));
        out
    };
    let piece = |chance: &mut Chance| {
        let full = chance.of_list(known);
        let len = chance.within(2, 6).min(full.len());
        full[..full.floor_char_boundary(len)].trim_matches('-').to_owned()
    };
    (0..count)
        .map(|_| match chance.below(12) {
            0 => service(chance) + &service(chance),
            1 => word(chance) + &service(chance),
            2 => piece(chance) + &service(chance),
            3 => squeezed(chance) + &service(chance),
            4 => piece(chance) + &service(chance) + &service(chance),
            5 => squeezed(chance) + &squeezed(chance),
            6 => word(chance) + &some(b"0123456789", chance.within(1, 4), chance),
            7 => some(b"0123456789", chance.within(1, 4), chance) + &word(chance),
            8 => (0..chance.within(2, 5)).map(|_| *chance.of_list(SYLLABLES)).collect(),
            9 => some(LETTERS, chance.within(2, 4), chance) + &some(b"0123456789", chance.within(1, 4), chance),
            10 => some(LETTERS, chance.within(2, 3), chance) + &word(chance),
            _ => piece(chance) + "-" + &service(chance),
        })
        .filter(|name| name.len() > 3)
        .collect()
}
