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
const SERVICE: &str = "\
    ad ads adserv adsrv adx akam amp analytics api app apps asset assets auth aws az beacon bid bidder biz blob bot box \
    btn cache cas cdn cdns cfg chat click client cloud cms cnt cntr code collector conf config conn connect content core \
    count crl cs css ctl data db dev dl dmp dns doc docs dsp dt dw edge eu ev event events exch ext fast fb feed file \
    files font fonts front ftp fw game gap gate geo goog gp gps grid gs gtm gw host hub id img imgs info ingest io iot ip \
    iq js kit lab labs lb link live load log logs mail map maps mc media meet metric metrics micro mkt mktg ml mob mobile \
    ms mtrcs mx net ngx node notify ns ocsp ops opt optim pay pix pixel pki play plus pool portal prd prod proxy pub push \
    px query rtb rum run s3 safe sc scan sdk search sec secure seg sense serv server serving services sgn share shop sig \
    site sms soft spot srv ssl ssp st stat static stats status stg storage store stream svc sync sys tag tags team tech \
    telemetry test thumb tile time tls tm tool track tracker trc trk trust ts tv up update upd usr vid video vo voip vpn \
    wave web widget win wp ws www xp yield zone";

/// Syllables of transcribed Chinese and Japanese: names of which look strange to a model of European ones.
const SYLLABLES: &str = "\
    ai an bai bao bei chang che cheng chi chu da dian dong du fang feng fu gao ge gong guang guo hai hang hao he hong hu \
    hua huang hui huo ji jia jian jiao jie jin jing jiu ju kai ke kong kuai lai lan le li lian liang ling liu long lu ma \
    mai mei ming mu nan ni nian ning niu pai ping qi qian qiang qing qiu qu quan ren ri rong ru san shan shang she shen \
    sheng shi shou shu shui si song su tai tang tao tian tie tong tu wan wang wei wen wo wu xi xia xian xiang xiao xin \
    xing xu xue ya yan yang yao ye yi yin ying yong you yu yuan yue yun zai zhan zhang zhao zhe zheng zhi zhong zhou zhu \
    zi zong zu hara kawa mura naka saki shima suzu taka tomo yama yoshi";

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
pub const WAYS: usize = 24;

/// Whether a way joins words.
pub fn joins_words(way: usize) -> bool {
    matches!(way, 13..=15 | 21..=23)
}

/// What a way's names weigh: two words, or a word and a few letters, are somebody's name as often as not, and each such
/// example costs a benign one.
pub fn weight(way: usize) -> f32 {
    match way {
        13 => 0.15,
        15 => 0.3,
        8 => 0.5,
        _ => 1.0,
    }
}

/// The alphabets, syllables and words of one made-up family, drawn once for it.
struct Family<'a> {
    low: usize,
    high: usize,
    letters: Vec<u8>,
    /// Letters drawn so often as they stand in it.
    skewed: Vec<u8>,
    consonants: Vec<u8>,
    vowels: Vec<u8>,
    syllables: Vec<String>,
    words: Vec<&'a String>,
    fixed: String,
    before: String,
    /// `true` = a vowel at that place.
    pattern: Vec<bool>,
    digits_share: f64,
    order: usize,
    hyphen: bool,
    /// Letters from which on no further word is joined.
    enough: usize,
}

impl<'a> Family<'a> {
    fn draw(words: &'a [String], chance: &mut Chance) -> Self {
        let low = chance.within(6, 16);
        let letters = part_of(LETTERS, chance.within(5, 20), chance);
        let skewed = LETTERS.iter().flat_map(|l| vec![*l; chance.below(8)]).chain(*b"aeiou").collect();
        let syllables = (0..chance.within(12, 60))
            .map(|_| {
                let (c, v, n) =
                    (some(CONSONANTS, 1, chance), some(VOWELS, 1, chance), some(LETTERS, chance.within(0, 2), chance));
                if chance.chance(0.7) { format!("{c}{v}{n}") } else { format!("{v}{c}{n}") }
            })
            .collect();
        let span = *chance.of_list(&[500, 3000, 12_000]);
        let start = chance.below(words.len().saturating_sub(span).max(1));
        let most = *chance.of_list(&[400, 1500, 4000]);
        let size = chance.within(40, most);
        let before_len = chance.within(1, 5);
        Self {
            low,
            high: low + chance.within(0, 10),
            letters,
            skewed,
            consonants: part_of(CONSONANTS, chance.within(6, 20), chance),
            vowels: part_of(VOWELS, chance.within(2, 5), chance),
            syllables,
            words: (0..size).map(|_| &words[(start + chance.below(span)) % words.len()]).collect(),
            fixed: format!("{}{}", chance.of_list(words), chance.of_list(words)),
            before: some(if chance.chance(0.5) { HEX } else { LETTERS }, before_len, chance),
            pattern: (0..24).map(|n| if n % 2 == 0 { chance.chance(0.3) } else { chance.chance(0.7) }).collect(),
            digits_share: chance.unit() * 0.5,
            order: chance.within(1, 2),
            hyphen: chance.chance(0.12),
            enough: chance.within(12, 26),
        }
    }

    fn name(&self, way: usize, chains: &Chains, chance: &mut Chance) -> String {
        let len = chance.within(self.low, self.high);
        let joined = |count: usize, chance: &mut Chance| {
            let parts: Vec<&str> = (0..count).map(|_| chance.of_list(&self.words).as_str()).collect();
            parts.join(if self.hyphen { "-" } else { "" })
        };
        // Words until it is long enough.
        let long = |chance: &mut Chance| {
            let mut name = String::new();
            while name.len() < self.enough {
                name += chance.of_list(&self.words).as_str();
            }
            name
        };
        match way {
            0 => some(LETTERS, len, chance),
            1 => some(ALNUM, len + 2, chance),
            2 => some(HEX, len + 2, chance),
            3 => some(BASE32, len + 4, chance),
            4 => some(&self.letters, len + 2, chance),
            5 => some(CONSONANTS, len, chance),
            // Consonant and vowel in turn, now and then one more.
            6 => {
                let mut name = String::new();
                while name.len() < len {
                    name += &some(&self.consonants, 1, chance);
                    name += &some(&self.vowels, 1, chance);
                    if chance.chance(0.2) {
                        name += &some(&self.consonants, 1, chance);
                    }
                }
                name.truncate(len);
                name
            }
            7 => (0..chance.within(3, 5)).map(|_| chance.of_list(&self.syllables).as_str()).collect(),
            8 => chains.name(self.order, len, chance),
            9 => {
                let mut one = || some(if chance.chance(self.digits_share) { b"0123456789" } else { LETTERS }, 1, chance);
                (0..len).map(|_| one()).collect()
            }
            10 => some(LETTERS, chance.within(16, 34), chance),
            11 => some(LETTERS, chance.within(5, 8), chance),
            // A random beginning before something fixed.
            12 => format!("{}{}", some(LETTERS, 4, chance), self.fixed),
            13 => joined(2, chance),
            14 => joined(chance.within(3, 4), chance),
            15 => joined(2, chance) + &some(LETTERS, chance.within(2, 3), chance),
            16 => some(&self.skewed, len, chance),
            // Consonants and vowels in a fixed pattern.
            17 => {
                let kinds = self.pattern.iter().take(len);
                kinds.map(|vowel| some(if *vowel { &self.vowels } else { &self.consonants }, 1, chance)).collect()
            }
            // Something fixed before a random end.
            18 => format!("{}{}", self.before, some(if self.hyphen { ALNUM } else { LETTERS }, len.min(12), chance)),
            19 => format!("{}{}", self.before, some(HEX, len, chance)),
            // Digits in base 64, in small letters: a date that seeds a generator.
            20 => {
                const PAIRS: &[&str] =
                    &["mda", "mde", "mdi", "mdm", "mdq", "mte", "mti", "mjm", "nda", "ndu", "nzk", "ota", "otk", "njc", "nty"];
                (0..chance.within(3, 5)).map(|_| format!("{}{}", chance.of_list(PAIRS), some(b"xwyz51", 1, chance))).collect()
            }
            21 | 22 => long(chance),
            // Words, cut off where it is long enough.
            _ => {
                let mut name = long(chance);
                name.truncate(self.enough);
                name
            }
        }
    }
}

/// Names of one made-up family.
pub fn family(way: usize, count: usize, words: &[String], chains: &Chains, chance: &mut Chance) -> Vec<String> {
    let family = Family::draw(words, chance);
    (0..count).map(|_| family.name(way, chains, chance)).filter(|name| (4..=63).contains(&name.len())).collect()
}

/// Benign names of the kinds that lists of popular sites lack.
pub fn ordinary(count: usize, words: &[String], known: &[String], chance: &mut Chance) -> Vec<String> {
    let services: Vec<&str> = SERVICE.split_whitespace().collect();
    let syllables: Vec<&str> = SYLLABLES.split_whitespace().collect();
    let word = |chance: &mut Chance| chance.of_list(&words[..words.len().min(8000)]).clone();
    let service = |chance: &mut Chance| (*chance.of_list(&services)).to_owned();
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
    // The first letters of words: what companies call themselves.
    let initials = |chance: &mut Chance| (0..chance.within(2, 4)).map(|_| word(chance)[..1].to_owned()).collect::<String>();
    let digits = |chance: &mut Chance| {
        let len = chance.within(1, 3);
        some(b"0123456789", len, chance)
    };
    (0..count)
        .map(|_| match chance.below(18) {
            0 => service(chance) + &service(chance),
            1 => word(chance) + &service(chance),
            2 => piece(chance) + &service(chance),
            3 => squeezed(chance) + &service(chance),
            4 => piece(chance) + &service(chance) + &service(chance),
            5 => squeezed(chance) + &squeezed(chance),
            6 => word(chance) + &some(b"0123456789", chance.within(1, 4), chance),
            7 => some(b"0123456789", chance.within(1, 4), chance) + &word(chance),
            8 => (0..chance.within(2, 5)).map(|_| *chance.of_list(&syllables)).collect(),
            9 => some(LETTERS, chance.within(2, 4), chance) + &some(b"0123456789", chance.within(1, 4), chance),
            10 => some(LETTERS, chance.within(2, 3), chance) + &word(chance),
            11 => piece(chance) + "-" + &service(chance),
            12 => initials(chance) + &service(chance),
            13 => word(chance) + &initials(chance),
            14 => initials(chance) + &digits(chance) + &service(chance),
            15 => squeezed(chance) + &piece(chance) + &digits(chance),
            16 => piece(chance) + &piece(chance) + &service(chance),
            _ => initials(chance) + "-" + &word(chance),
        })
        .filter(|name| name.len() > 3)
        .collect()
}
