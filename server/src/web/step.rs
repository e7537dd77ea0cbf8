//! `/runs/{id}/steps/{step}`: the log of one step, however long it is.
//!
//! The page shows a window of it: its end, or the lines around one. Looking for text is done
//! here too, from one match to the next, so that all of it works without the script; the
//! script moves the window while one scrolls, and follows what is being said.

use askama::{Template, filters::Safe};
use axum::{
    Json,
    extract::{Path, State},
};
use mergeyard_types::{RunId, StepId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Answer, ApiAnswer, Page, Pages, Query, Shell, Site, asked,
    badge::Badge,
    live::Line,
    log::{self, Shown, StepLog, Window},
    named, page,
    run::base,
};
use crate::{
    logs::{Needle, Size, Way},
    store::{RunRow, StepRow, WorkflowRow},
};

/// Lines on the page.
const LINES: u64 = 500;

/// What a program may ask for at once.
const MOST_LINES: u64 = 1000;
const MOST_MATCHES: usize = 1000;

/// A match is told with the beginning of its line.
const MATCH_TEXT: usize = 300;

/// Nobody looks for more than fits a line of the form.
const LONGEST_NEEDLE: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Look {
    /// The line to show.
    line: Option<String>,
    /// What to look for; the first one, the first after a line, or the last before one.
    q: Option<String>,
    /// `exact`: capitals and small letters differ.
    case: Option<String>,
    after: Option<u64>,
    before: Option<u64>,
    limit: Option<u64>,
}

impl Look {
    fn needle(&self) -> Result<Option<Needle>, Answer> {
        let text = self.q.as_deref().unwrap_or_default();
        if text.len() > LONGEST_NEEDLE {
            let message = format!("the text to look for is longer than {LONGEST_NEEDLE} bytes");
            return Err(Answer::BadRequest(message));
        }
        Ok(Needle::new(text, !self.is_exact()))
    }

    fn is_exact(&self) -> bool {
        self.case.as_deref() == Some("exact")
    }

    /// From where, and which way, one looks.
    fn direction(&self) -> (u64, Way) {
        match (self.before, self.after) {
            (Some(before), _) => (before, Way::Backward),
            (None, after) => (after.unwrap_or(0), Way::Forward),
        }
    }
}

#[derive(Template)]
#[template(path = "step.html")]
struct StepPage {
    shell: Shell,
    run: RunRow,
    workflow: WorkflowRow,
    step: StepRow,
    badge: Safe<Badge>,
    size: Size,
    lines: Vec<Shown>,
    window: Window,
    /// The line that was asked for or found.
    here: Option<u64>,
    search: Option<Search>,
    /// Whether more may be said.
    live: bool,
}

/// What was looked for, as the form and the links say it again.
struct Search {
    text: String,
    /// For an address.
    encoded: String,
    is_exact: bool,
    found: Option<u64>,
    /// Where a search that ran long goes on.
    next: Option<u64>,
    from: u64,
    way: Way,
}

impl StepPage {
    fn path(&self) -> String {
        format!("/runs/{}/steps/{}", self.run.id, self.step.id)
    }

    fn total(&self) -> String {
        log::grouped(self.size.lines)
    }

    fn weight(&self) -> String {
        log::weight(self.size.bytes)
    }

    fn base(&self) -> Timestamp {
        base(&self.step)
    }

    fn text(&self) -> &str {
        self.search.as_ref().map_or("", |search| &search.text)
    }

    fn is_exact(&self) -> bool {
        self.search.as_ref().is_some_and(|search| search.is_exact)
    }

    fn is_here(&self, number: &u64) -> bool {
        self.here == Some(*number)
    }

    fn earlier(&self) -> u64 {
        self.lines.first().map_or(1, |line| line.number.saturating_sub(LINES / 2).max(1))
    }

    fn later(&self) -> u64 {
        self.window.last().saturating_add(LINES / 2).min(self.window.total)
    }
}

impl Search {
    /// The address of another match.
    fn link(&self, way: &str, from: &u64) -> String {
        let case = if self.is_exact { "&case=exact" } else { "" };
        format!("?q={}{case}&{way}={from}", self.encoded)
    }

    /// The search from where it would begin without a place.
    fn anew(&self) -> String {
        match self.way {
            Way::Forward => self.link("after", &0),
            Way::Backward => self.link("before", &i64::MAX.unsigned_abs()),
        }
    }

    fn found_line(&self) -> String {
        self.found.map(log::grouped).unwrap_or_default()
    }

    fn is_anew(&self) -> bool {
        self.from == if self.way == Way::Forward { 0 } else { i64::MAX.unsigned_abs() }
    }

    fn direction(&self) -> &'static str {
        if self.way == Way::Forward { "after" } else { "before" }
    }
}

pub(super) async fn step(
    State(site): State<Site>,
    Path((run, step)): Path<(String, String)>,
    look: Query<Look>,
) -> Page {
    let (look, pages) = (asked(look)?, &site.pages);
    let (run, id): (RunId, StepId) = (named(&run)?, named(&step)?);
    let found = pages.store.run_page(run).await?.ok_or(Answer::NotFound)?;
    let (run, mut workflows) = (found.run, found.workflows);
    let has = |workflow: &WorkflowRow| workflow.steps.iter().any(|step| step.id == id);
    let workflow = workflows.iter().position(has).ok_or(Answer::NotFound)?;
    let workflow = workflows.swap_remove(workflow);
    let step = workflow.steps.iter().find(|step| step.id == id).ok_or(Answer::NotFound)?.clone();
    let log = StepLog { logs: pages.logs.clone(), run: run.id, step: id };
    let needle = look.needle()?;
    let search = match &needle {
        Some(needle) => Some(first_match(&site, &log, &look, needle).await?),
        None => None,
    };
    // Whatever does not read as a number is a wish for the end, which is where an empty field leads.
    let line = look.line.as_deref().and_then(|line| line.trim().parse::<u64>().ok()).filter(|line| *line > 0);
    let here = search.as_ref().map_or(line, |search| search.found);
    let place = here.or(look.after).or(look.before);
    let window = match place {
        Some(number) => log.around(number.min(log.size().await?.lines).max(1), LINES).await?,
        None => log.tail(LINES).await?,
    };
    page(&StepPage {
        shell: Shell::new(pages, "runs"),
        badge: Badge::of(step.state),
        size: log.size().await?,
        lines: window.shown(base(&step), needle.as_ref()),
        here: here.map(|line| line.min(window.last())),
        live: !step.state.is_final(),
        run,
        workflow,
        step,
        window,
        search,
    })
}

async fn first_match(site: &Site, log: &StepLog, look: &Look, needle: &Needle) -> Result<Search, Answer> {
    let (from, way) = look.direction();
    let _turn = site.searches.acquire().await.map_err(|_| Answer::Busy)?;
    let found = log.logs.search(log.run, log.step, needle, (from, way), 1).await?;
    let text = look.q.clone().unwrap_or_default();
    let hit = found.matches.first().map(|(number, _)| *number);
    Ok(Search {
        encoded: url::form_urlencoded::byte_serialize(text.as_bytes()).collect(),
        text,
        is_exact: look.is_exact(),
        found: hit,
        next: found.next.filter(|_| hit.is_none()),
        from,
        way,
    })
}

/// `/api/v1/steps/{id}/lines`: lines after one, before one, or the last.
#[derive(Serialize)]
pub(super) struct LinesDocument {
    lines: Vec<Line>,
    total: u64,
}

pub(super) async fn lines(
    State(pages): State<Pages>,
    Path(id): Path<String>,
    look: Query<Look>,
) -> Result<Json<LinesDocument>, ApiAnswer> {
    let look = asked(look)?;
    let log = step_log(&pages, &id).await?;
    let needle = look.needle()?;
    let count = look.limit.unwrap_or(LINES).clamp(1, MOST_LINES);
    let window = match (look.before, look.after) {
        (Some(before), _) => log.before(before, count, log::WINDOW).await?,
        (None, Some(after)) => log.after(after, count, log::WINDOW).await?,
        (None, None) => log.tail(count).await?,
    };
    let line = |(number, line): &(u64, _)| Line::of(*number, line, needle.as_ref());
    Ok(Json(LinesDocument { lines: window.lines.iter().map(line).collect(), total: window.total }))
}

/// `/api/v1/steps/{id}/search`: matches, and where to go on.
#[derive(Serialize)]
pub(super) struct SearchDocument {
    matches: Vec<Match>,
    next: Option<u64>,
}

#[derive(Serialize)]
struct Match {
    line: u64,
    text: String,
}

pub(super) async fn search(
    State(site): State<Site>,
    Path(id): Path<String>,
    look: Query<Look>,
) -> Result<Json<SearchDocument>, ApiAnswer> {
    let look = asked(look)?;
    let log = step_log(&site.pages, &id).await?;
    let missing = || Answer::BadRequest("there is nothing to look for; write it behind `q=`".to_owned());
    let needle = look.needle()?.ok_or_else(missing)?;
    let most = look.limit.map_or(MOST_MATCHES, |limit| limit.clamp(1, MOST_MATCHES as u64) as usize);
    let _turn = site.searches.acquire().await.map_err(|_| Answer::Busy)?;
    let found = log.logs.search(log.run, log.step, &needle, look.direction(), most).await?;
    let told = |(line, found): (u64, mergeyard_run::log::LogLine)| {
        let mut text = super::inert::log_text(&found.text);
        text.truncate(text.floor_char_boundary(MATCH_TEXT));
        Match { line, text }
    };
    Ok(Json(SearchDocument { matches: found.matches.into_iter().map(told).collect(), next: found.next }))
}

async fn step_log(pages: &Pages, id: &str) -> Result<StepLog, Answer> {
    let step: StepId = named(id)?;
    let row = pages.store.step(step).await?.ok_or(Answer::NotFound)?;
    Ok(StepLog { logs: pages.logs.clone(), run: row.run, step })
}
