# Someone is afraid and becomes brave.
cast: solo
lesson: [being brave means trying even when you are afraid|fear gets small when you look at it|it helps to talk about fear|you are braver than you think]

<home> But {hero} was afraid of {fear}.
<home> There was only one problem. {Hero} was [very |so |]afraid of {fear}.
{Hero.full} was not afraid of [mice|spiders|rain|bugs]. {Hero.he} was not afraid of [bears|snow|ghosts]. But {hero.he} was [very |]afraid of {fear}.
<home> {Hero.he} was brave, but {hero.he} did not like {fear}. It made {hero.him} [shake|cry|hide].

<daystart>, {hero} was [with {grown}|alone|with {friend.intro}]. {Fear.shows}. {Hero}'s heart beat fast.
[<daystart>|That day], {hero.he} [lost {hero.his} {toy.bare}|had to bring {food.a} to {grown}|wanted to visit {friend.intro}]. But {hero.he} had to be brave. {Fear.shows}.
<daystart>, something happened. {Fear.shows}. {Hero} [stood still|began to shake|wanted to run away|hid {spot}].

"I [can't|can't do it|am too scared]!" [cried|said] {hero}. {Hero.he} [closed {hero.his} eyes|wanted to go home|began to cry].
"I am [scared|afraid|so scared]," {hero} whispered.
{Hero.he} [closed {hero.his} eyes|held {hero.his} breath|covered {hero.his} ears]. "[Please help me|I want to go home|I don't like this]," {hero.he} said.

--
{Guide.first} [came and sat down next to {hero.him}|heard {hero.him}|saw that {hero.he} was afraid]. "{Fear.truth}," said {guide} <softly>. 
Then {guide.first} came. "[Why do you shake|What is wrong|Why are you hiding]?" {guide.he} asked. "I am afraid of {fear}," said {hero}. "{Fear.truth}," said {guide}.
{Guide.first} [smiled at {hero.him}|gave {hero.him} a hug|came closer]. "[I was afraid too when I was small|Everyone is afraid sometimes|It is okay to be afraid]," said {guide}. "{Fear.truth}."

"[Let us try together|Take a deep breath|I will stay with you|Count to three with me]," {guide.he} said. "[One, two, three|You can do it|I believe in you]!"
"Really?" asked {hero}. "Really," said {guide}. "[I will be right here|We can go together|Try it, just once]."
{Hero} thought about [this|these words|that]. [Then {hero.he} nodded|{Hero.he} stood up|{Hero.he} wiped {hero.his} eyes]. 

{Hero} took a deep breath. [{Hero.he} took one small step|{Hero.he} counted to three|{Hero.he} sang a little song]. Then {hero.he} took [another one|one more step|a big step]. Nothing bad happened!
So {hero.he} opened {hero.his} eyes and [tried|looked]. [It was not so bad|Nothing bad happened|It was almost nice]. {Hero.he} [even smiled|laughed out loud|felt better].
Slowly, {hero} [became calm|stopped shaking|began to smile]. "[It is not so bad|I am doing it|Look at me]!" {hero.he} said.

{Hero} was <happy>. "I did it!" {hero.he} [cried|said|shouted] <loudly>. "I knew you could," said {guide}.
"You were very brave," said {guide}. {Hero} was <happy>.
After that, {hero} was not afraid of {fear} anymore.
"[Thank you|I am not afraid anymore|I feel big now]," said {hero}. {Guide} [smiled|gave {hero.him} a wink|was proud of {hero.him}].

?
<moral>
<moral>
<moral>
<bedtime>
The next time, {hero} [helped a friend who was afraid|was the first to go|was not afraid at all].
